"""Characters per id: vocabularies with bytes, with lost spaces, and with ids that fit nowhere."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.data import pieces, tokenizer

TEXTS = ["def f(x):\n    return x + 1\n", "42 is the answer to 6 * 7", "print(a)\nprint(b)"] * 9


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    made = tmp_path_factory.mktemp("words")
    return tokenizer.train_sentencepiece(TEXTS, 340, ["<|im_end|>"], made)


def by_bytes(ids):
    return bytes(ids).decode("utf-8", "replace")


def test_bytes_of_one_character_belong_to_its_last_id():
    text = "a€b"  # one byte, three, one
    assert pieces.lengths(list(text.encode()), text, by_bytes) == [1, 0, 0, 1, 1]


def test_a_first_space_that_only_a_neighbour_brings_back():
    def decode(ids):
        return " ".join(map(str, ids))

    assert pieces.lengths([7, 42, 7], "7 42 7", decode) == [1, 3, 2]


def test_what_fits_nowhere_is_left_to_the_last_id():
    assert pieces.lengths([1, 2], "other", lambda ids: "x" * len(ids)) == [0, 5]
    assert pieces.lengths([], "", by_bytes) == []


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_real_pieces_are_what_each_id_decodes_to(words, text):
    ids = [*words.encode(text), words.eos_id]
    whole = words.decode(ids)
    found = pieces.lengths(ids, whole, words.decode)
    assert sum(found) == len(whole) and min(found) >= 0
    assert found[-1] == len("<|im_end|>")
    at = 0
    for i, length in zip(ids, found, strict=True):
        alone = words.decode([i])
        if alone.isascii() and length:
            assert whole[at : at + length] == alone
        at += length


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=24))
def test_any_bytes_add_up(ids):
    text = by_bytes(ids)
    found = pieces.lengths(ids, text, by_bytes)
    assert len(found) == len(ids) and sum(found) == len(text)


def test_after_one_that_fits_nowhere_the_others_are_found_again():
    def decode(ids):
        return "".join({1: "one ", 2: "<?>", 3: "three "}[i] for i in ids)

    assert pieces.lengths([1, 2, 3, 3], "one two three three ", decode) == [4, 0, 10, 6]
