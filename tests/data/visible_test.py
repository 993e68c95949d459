"""What is shown of text: all of it, and nothing that acts."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.data import visible


def test_by_hand():
    assert visible.escaped("a\x00\x1b[0m\u202eb\n\tc\u2028é") == "a\\x00\\x1b[0m\\u202eb\n\tc\\u2028é"
    assert visible.escaped("\ud800 is half a character") == "\\ud800 is half a character"


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(st.text(alphabet=st.characters(codec=None), max_size=40))
def test_any_text_can_be_encoded_and_moves_nothing(text):
    shown = visible.escaped(text)
    shown.encode()
    assert not any(unicodedata.category(c)[0] == "C" for c in shown if c not in "\n\t")
