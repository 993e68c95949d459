"""Frames: what is packed arrives whole, however it is cut; anything else is an error."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.tools import frames


def test_a_frame_by_hand():
    assert frames.pack({"a": 1}) == b"\x00\x00\x00\x07" + b'{"a":1}'


@settings(derandomize=True, max_examples=50)
@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=5),
       st.integers(1, 9))
def test_any_cut_gives_the_same_messages(messages, step):
    data = b"".join(map(frames.pack, messages))
    decoder, found = frames.Decoder(), []
    for start in range(0, len(data), step):
        found += decoder.feed(data[start : start + step])
    assert found == messages and not decoder.buffer


@pytest.mark.parametrize("data", [
    b"\xff\xff\xff\xff", b"\x00\x00\x00\x01[", b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x01\xff",
    b"\x00\x00\x00\x00", b"\x00\x00\x20\x00" + b"[" * 8192,
])
def test_what_is_no_frame_is_an_error(data):
    with pytest.raises(frames.FrameError):
        frames.Decoder(1 << 16).feed(data)


def test_the_cap_holds_before_anything_is_allocated():
    decoder = frames.Decoder(10)
    with pytest.raises(frames.FrameError, match="cap 10"):
        decoder.feed(b"\x00\x00\x00\x0b")
    with pytest.raises(frames.FrameError):
        frames.pack({"a": "x" * frames.CAP_BYTES})
