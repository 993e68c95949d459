"""GGUF files: the header as another writer wrote it, quantised rows, and damage of any kind."""

import functools
import resource
import struct
import time

import gguf
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from aster_jax import errors, weights
from aster_jax.weights import gguf_file
from tests.weights import made

RUN = hypothesis.settings(derandomize=True, max_examples=150, deadline=None, database=None)


@functools.cache
def whole(folder) -> bytes:
    path = made.write_gguf(folder / "m.gguf", made.LLAMA, made.random_params(made.LLAMA))
    return path.read_bytes()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


def opened(folder, data: bytes):
    path = folder / "changed.gguf"
    path.write_bytes(data)
    return gguf_file.GgufArchive(path)


def test_header_and_tensors_are_what_was_written(folder):
    archive = opened(folder, whole(folder))
    assert archive.fields["llama.attention.head_count_kv"] == made.LLAMA.num_kv_heads
    assert archive.fields["tokenizer.ggml.merges"] == ["t h", "th e"]
    assert archive.fields["llama.rope.freq_base"] == 1e4 and archive.permuted
    assert archive.shapes["blk.2.ffn_down.weight"] == (32, 48)
    expected = made.random_params(made.LLAMA)["embed"]["w"]
    part = archive.read("token_embd.weight", slice(5, 9), slice(3, 30))
    np.testing.assert_array_equal(part, expected[5:9, 3:30])


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16"])
def test_quantised_rows_equal_the_reference_dequantiser(tmp_path, kind):
    kind = gguf.GGMLQuantizationType[kind]
    weights_RC = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    stored = gguf.quants.quantize(weights_RC, kind)
    writer = gguf.GGUFWriter(str(tmp_path / "q.gguf"), "llama")
    writer.add_tensor("w", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    archive = gguf_file.GgufArchive(tmp_path / "q.gguf")
    expected = gguf.quants.dequantize(stored, kind)
    np.testing.assert_array_equal(archive.read("w", slice(2, 5), slice(1, 40)), expected[2:5, 1:40])
    assert np.abs(expected - weights_RC).max() < 0.25


@RUN
@hypothesis.given(st.floats(0, 0.999))
def test_any_truncation_is_named(folder, fraction):
    data = whole(folder)
    with pytest.raises(ValueError, match="changed.gguf is truncated or no GGUF file"):
        opened(folder, data[: int(fraction * len(data))])


@RUN
@hypothesis.given(st.integers(4, 1500), st.binary(min_size=1, max_size=4))
def test_a_damaged_header_reads_or_is_named(folder, at, noise):
    data = bytearray(whole(folder))
    data[at : at + len(noise)] = noise
    try:
        opened(folder, bytes(data))
    except ValueError as error:
        assert "changed.gguf" in str(error)


def test_other_versions_are_refused(folder):
    data = bytearray(whole(folder))
    data[4] = 1
    with pytest.raises(ValueError, match="version 1 is not supported"):
        opened(folder, bytes(data))


def edited(path, more):
    made.write_gguf(path, made.LLAMA, made.random_params(made.LLAMA), more=more)
    return path


def field(key, kind, *numbers, text=b""):
    """A key and its value as bytes of the format."""
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + text + b"".join(numbers)


def header_of(*fields, tensors=b"", num_tensors=0):
    start = b"GGUF" + struct.pack("<IQQ", 3, num_tensors, len(fields))
    return start + b"".join(fields) + tensors


def test_arrays_of_numbers_are_views_and_cost_nothing(tmp_path):
    """300 MB of them, in a file that is a hole, within the time and memory of a small one."""
    length = 300_000_000
    start = header_of(field(b"a", 9, struct.pack("<IQ", 0, length)))
    with open(tmp_path / "m.gguf", "wb") as file:
        file.write(start)
        file.truncate(len(start) + length)
    before, begun = peak_bytes(), time.process_time()
    with pytest.raises(ValueError, match="has no general.architecture"):
        gguf_file.GgufArchive(tmp_path / "m.gguf")
    assert time.process_time() - begun < 1 and peak_bytes() - before < 64 << 20


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12])
def test_arrays_of_every_kind_of_number_are_read(folder, kind):
    number = np.dtype(gguf_file._NUMBERS[kind])
    values = np.arange(3).astype(number)
    text = field(b"a", 9, struct.pack("<IQ", kind, 3), values.tobytes())
    name = field(b"general.architecture", 8, struct.pack("<Q", 5), b"llama")
    found = opened(folder, header_of(text, name)).fields["a"]
    np.testing.assert_array_equal(found, values)


TENSOR = struct.pack("<Q", 1) + b"w" + struct.pack("<IQIQ", 1, 64, 0, 0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (header_of(field(b"a", 9, struct.pack("<IQIQ", 9, 1, 0, 0))), "array of value type 9"),
        (header_of(field(b"a", 9, *[struct.pack("<IQ", 9, 1)] * 5000)), "array of value type 9"),
        (header_of(field(b"a", 9, struct.pack("<IQ", 8, 90))) + bytes(700), "array of 90 strings"),
        (header_of(field(b"a", 9, struct.pack("<IQ", 8, 3 << 20))) + bytes(25 << 20), "strings"),
        (header_of(field(b"a", 99)), "value type 99 is unknown"),
        (header_of(num_tensors=1 << 17) + bytes(1 << 18), "more than there can be"),
        (header_of(tensors=TENSOR * 2, num_tensors=2) + bytes(999), "w is there twice"),
        (header_of(tensors=TENSOR + TENSOR.replace(b"w", b"v"), num_tensors=2) + bytes(300),
         "its tensors overlap"),
    ],
)  # fmt: skip
def test_headers_that_would_take_long_are_refused_at_once(folder, data, says):
    begun = time.process_time()
    with pytest.raises(errors.InputError, match=says):
        opened(folder, data)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (lambda w: w.add_eos_token_id(1 << 31), "eos_token_id=2147483648 is none of the 33 tokens"),
        (lambda w: w.add_int32("tokenizer.ggml.padding_token_id", -1), "padding_token_id=-1 is none"),
        (lambda w: w.add_token_merges(["t zz"]), "is damaged or of a kind"),
        (lambda w: w.add_token_merges(["t"]), "is damaged or of a kind"),
        (lambda w: w.add_token_types([1]), "is damaged or of a kind"),
        (lambda w: w.add_uint32("tokenizer.ggml.tokens", 3), "is damaged or of a kind"),
        (lambda w: w.add_uint32("tokenizer.chat_template", 3), "chat_template is 3, not a text"),
        (lambda w: w.add_head_count_kv(0), "head_count_kv=0 is no whole number"),
        (lambda w: w.add_head_count(0), "head_count=0 is no whole number"),
        (lambda w: w.add_layer_norm_rms_eps(-1.0), "epsilon=-1.0 is no finite number above 0"),
        (lambda w: w.add_rope_freq_base(float("nan")), "freq_base=nan is no finite number"),
        (lambda w: w.add_head_count([4, 4, 4]), "head_count=.* is no whole number"),
    ],
)
def test_damaged_settings_are_named(tmp_path, more, says):
    with pytest.raises(errors.InputError, match=says) as caught:
        weights.describe(edited(tmp_path / "m.gguf", more))
    assert "m.gguf" in str(caught.value)


def test_types_without_a_dequantiser_are_named(tmp_path):
    """Q8_1 holds sums for dot products: no file should have it, and the library cannot read it."""
    writer = gguf.GGUFWriter(str(tmp_path / "q.gguf"), "llama")
    writer.add_tensor("w", np.zeros((2, 40), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    archive = gguf_file.GgufArchive(tmp_path / "q.gguf")
    with pytest.raises(errors.InputError, match="type Q8_1 cannot be dequantised"):
        archive.read("w", slice(0, 2), slice(None))
