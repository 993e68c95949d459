"""Rows made ready to decode: those that are named, with keys of their identities."""

import jax
import jax.numpy as jnp
import numpy as np

from aster_jax.rollout import arming, engine

SLOTS = 4


def idle():
    """Slots of which nothing is known."""
    zeros_B = jnp.zeros(SLOTS, jnp.int32)
    return engine.Slots(
        cache=None, length_B=zeros_B, pending_B=zeros_B, left_B=zeros_B,
        active_B=jnp.zeros(SLOTS, bool), key_B=jax.random.split(jax.random.key(0), SLOTS),
    )  # fmt: skip


def test_named_rows_are_armed_and_padding_arms_nothing():
    rows = arming.Arm(
        row_P=np.array([2, SLOTS, 0]), length_P=np.array([7, 99, 5]), pending_P=np.array([3, 99, 4]),
        left_P=np.array([6, 99, 1]), problem_P=np.array([11, 99, 2**32 - 1], np.uint32),
        sample_P=np.array([0, 99, 3]),
    )  # fmt: skip
    run_key = jax.random.key(5)
    before = idle()
    slots, count = arming.arm(before, rows, run_key)
    assert count.tolist() == [2]
    assert slots.length_B.tolist() == [5, 0, 7, 0] and slots.pending_B.tolist() == [4, 0, 3, 0]
    assert slots.left_B.tolist() == [1, 0, 6, 0]
    assert slots.active_B.tolist() == [True, False, True, False]
    keys_B, others_B = jax.random.key_data(slots.key_B), jax.random.key_data(before.key_B)
    for row, problem, sample in ((2, 11, 0), (0, 2**32 - 1, 3)):
        of_problem = jax.random.fold_in(run_key, np.uint32(problem))
        key = jax.random.fold_in(of_problem, sample)
        np.testing.assert_array_equal(keys_B[row], jax.random.key_data(key))
    np.testing.assert_array_equal(keys_B[1::2], others_B[1::2])
