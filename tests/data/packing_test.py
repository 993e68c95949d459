"""Packing by hand, its invariants over random lengths, and the input iterator's position."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax import types
from aster_jax.data import packing


def test_first_fit_decreasing_by_hand():
    # Longest first: 7 | 5 (no room beside 7 in 10) | 3 beside 7 | 3 beside 5 | 2 beside 5+3.
    assert packing.pack([3, 7, 2, 5, 3], 10) == [[1, 0], [3, 4, 2]]


def test_a_sequence_that_does_not_fit_is_an_error():
    for pack in (packing.pack, lambda *args: packing.pack_mixed(*args, 0)):
        with pytest.raises(ValueError, match="a sequence of 11 tokens does not fit a row of 10"):
            pack([3, 11], 10)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 16), max_size=30))
def test_every_sequence_is_in_one_row_and_no_row_overflows(lengths):
    rows = packing.pack(lengths, 16)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= 16 for row in rows)
    # First fit: two rows that would fit into one cannot both be there.
    sums = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(sums) < 2 or sums[0] + sums[1] > 16


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 16), max_size=30), st.integers(0, 3))
def test_mixed_rows_hold_every_sequence_once_and_depend_on_the_seed_alone(lengths, seed):
    rows = packing.pack_mixed(lengths, 16, seed)
    assert rows == packing.pack_mixed(lengths, 16, seed)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= 16 for row in rows)
    sums = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(sums) < 2 or sums[0] + sums[1] > 16


def test_mixed_rows_hold_both_kinds_where_length_goes_with_the_kind():
    """40 of 4 tokens and 40 of 5, in rows of 20: by length a row is of one kind, and not here."""
    lengths = [4] * 40 + [5] * 40
    by_length = packing.pack(lengths, 20)
    assert [len({lengths[i] for i in row}) for row in by_length] == [1] * 18
    mixed = packing.pack_mixed(lengths, 20, 0)
    assert len(mixed) <= 20
    assert sum(len({lengths[i] for i in row}) == 2 for row in mixed) > 10


def test_layout_by_hand():
    sequences = [{"tokens": [5, 6, 7], "mask": [0, 1, 1]}, {"tokens": [8, 9], "mask": [0, 1]}]
    rows = packing.layout(sequences, [[0, 1], [1]], 6)
    np.testing.assert_array_equal(rows["tokens"], [[5, 6, 7, 8, 9, 0], [8, 9, 0, 0, 0, 0]])
    np.testing.assert_array_equal(rows["mask"], [[0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(rows["segments"], [[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(rows["positions"], [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 0, 0]])
    assert rows["tokens"].dtype == np.int32 and rows["mask"].dtype == np.float32


def test_what_cannot_be_laid_out_is_told():
    with pytest.raises(ValueError, match="no sequence"):
        packing.layout([], [], 8)
    with pytest.raises(ValueError, match="sequence 1 has 3 tokens and 1 of mask"):
        packing.layout([{"tokens": [1], "mask": [1]}, {"tokens": [1, 2, 3], "mask": [1]}], [[0, 1]], 8)
    with pytest.raises(ValueError, match="micro_rows=0"):
        packing.microbatches({"tokens": np.zeros((1, 4))}, 0, 1)


def test_microbatches_are_padded_with_empty_rows():
    rows = {"tokens": np.arange(1, 6)[:, None] * np.ones((5, 3), np.int32)}
    arrays, used = packing.microbatches(rows, 2, 4)
    assert used == 3 and arrays["tokens"].shape == (4, 2, 3)
    np.testing.assert_array_equal(arrays["tokens"][:, :, 0], [[1, 2], [3, 4], [5, 0], [0, 0]])
    with pytest.raises(ValueError, match="5 rows need 3 microbatches of 2, not 2"):
        packing.microbatches(rows, 2, 2)


def demos():
    return [
        types.Demo(str(i), "f", tuple(range(i, i + n)), (0,) + (1,) * (n - 1), 1)
        for i, n in enumerate([4, 3, 6, 2, 5])
    ]


def test_sft_weights_add_up_to_one_over_the_whole_batch():
    rows = packing.sft_rows(demos(), 8, seed=1)
    assert len(rows) == 3
    stacked = {k: np.stack([r[k] for r in rows]) for k in rows[0]}
    batch, used = packing.sft_batch(stacked, 2)
    assert used == 2 and batch.tokens_BT.shape == (2, 2, 8)
    # 20 tokens in 5 demonstrations, the first of each not trained on.
    assert set(np.unique(batch.weights_BT)) == {np.float32(0), np.float32(1 / 15)}
    assert batch.weights_BT.sum() == pytest.approx(1.0)


def test_a_batch_without_trained_tokens_is_an_error():
    rows = {k: np.zeros((2, 4)) for k in ("tokens", "mask", "segments", "positions")}
    with pytest.raises(ValueError, match="no trained token"):
        packing.sft_batch(rows, 1)


def rows_of(numbers):
    return [{"tokens": np.full(2, n)} for n in numbers]


def test_the_iterator_continues_where_its_position_was_saved():
    rows = rows_of(range(7))
    data = packing.sft_iterator(rows, 3, seed=5)
    for _ in range(4):
        next(data)
    # The position goes through JSON, as in a checkpoint.
    numbers = jax.tree.map(lambda x: int(x) if isinstance(x, np.integer) else x, data.get_state())
    position = json.loads(json.dumps(numbers))
    expected = [next(data)["tokens"].tolist() for _ in range(6)]
    again = packing.sft_iterator(rows, 3, seed=5)
    again.set_state(position)
    assert [next(again)["tokens"].tolist() for _ in range(6)] == expected


def test_each_epoch_has_every_row_in_another_order():
    data = packing.sft_iterator(rows_of(range(8)), 4, seed=0)
    drawn = [next(data)["tokens"][:, 0].tolist() for _ in range(4)]
    epochs = [drawn[0] + drawn[1], drawn[2] + drawn[3]]
    assert [sorted(e) for e in epochs] == [list(range(8))] * 2
    assert epochs[0] != epochs[1] and epochs[0] != list(range(8))
    other = packing.sft_iterator(rows_of(range(8)), 4, seed=1)
    assert next(other)["tokens"][:, 0].tolist() != drawn[0]
