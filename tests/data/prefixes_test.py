"""Sequences that begin alike in rows: the module's example, and what holds for any sequences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.data import packing, prefixes
from aster_jax.errors import InputError


def laid(texts, row_tokens):
    """(rows of indices, arrays) of strings, a letter a token, with each letter's number read."""
    sequences = [{"tokens": [ord(x) for x in t], "number": range(1, len(t) + 1)} for t in texts]
    rows = prefixes.pack([s["tokens"] for s in sequences], row_tokens)
    return rows, prefixes.layout(sequences, rows, row_tokens)


def test_the_example_by_hand():
    rows, arrays = laid(["abcxy", "abz", "abcde"], 12)
    assert rows == [[2, 0, 1]]
    row = {name: x[0].tolist() for name, x in arrays.items()}
    assert "".join(map(chr, row["tokens"][:10])) == "abcdecxybz" and row["tokens"][10:] == [0, 0]
    assert row["segments"] == [1] * 5 + [2] * 3 + [3] * 2 + [0, 0]
    assert row["positions"] == [0, 1, 2, 3, 4, 2, 3, 4, 1, 2, 0, 0]
    assert row["until"] == [10, 8, 5, 5, 5, 8, 8, 8, 10, 10, 0, 0]
    # What is shared is read where it was first computed, the copies' own entries nowhere.
    assert row["places"][:13] == [0, 1, 2, 3, 4, 0, 1, 2, 6, 7, 0, 1, 9]
    assert row["members"][:14] == [1] * 5 + [2] * 5 + [3] * 3 + [0]
    assert row["number"][:13] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3]


def test_the_same_sequence_again_takes_no_place_and_four_are_all_that_a_row_may_stand_for():
    rows, arrays = laid(["abcd"] * 9, 4)
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert arrays["until"].tolist() == [[4] * 4] * 3 and arrays["segments"].max() == 1
    assert arrays["places"][0].tolist() == [0, 1, 2, 3] * 4


def test_a_sequence_that_goes_on_from_another_takes_what_is_new_and_one_place():
    rows, arrays = laid(["abcd", "ab"], 8)
    assert rows == [[1, 0]] and np.count_nonzero(arrays["segments"]) == 2 + 3


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="5 tokens does not fit a row of 4"):
        prefixes.pack([[1] * 5], 4)
    with pytest.raises(InputError, match="sequence 0 has 2 tokens and 1 of mask"):
        prefixes.layout([{"tokens": [1, 2], "mask": [1]}], [[0]], 4)


ALIKE = st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(ALIKE, st.integers(9, 24))
def test_every_sequence_is_found_whole_and_sees_itself_alone(texts, row_tokens):
    rows, arrays = laid(texts, row_tokens)
    assert sorted(i for row in rows for i in row) == list(range(len(texts)))
    assert len(rows) <= len(packing.pack([len(t) for t in texts], row_tokens))
    for r, row in enumerate(rows):
        tokens, segments, positions, until = (
            arrays[name][r] for name in ("tokens", "segments", "positions", "until")
        )
        order = np.arange(row_tokens)
        for member, i in enumerate(row, start=1):
            there = arrays["members"][r] == member
            places, text = arrays["places"][r][there], [ord(x) for x in texts[i]]
            assert tokens[places].tolist() == text
            assert arrays["number"][r][there].tolist() == list(range(1, len(text) + 1))
            for n, place in enumerate(places):
                seen = order[(order <= place) & (place < until)]
                assert tokens[seen].tolist() == text[: n + 1]
                assert positions[seen].tolist() == list(range(n + 1))
                if n:  # and it is predicted by the place before, from the same tokens
                    assert segments[place - 1] == segments[place] > 0
                    seen = order[(order <= place - 1) & (place - 1 < until)]
                    assert tokens[seen].tolist() == text[:n]
        assert not until[segments == 0].any()
