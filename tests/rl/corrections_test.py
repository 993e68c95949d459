"""What is done about tokens on which engine and trainer disagree, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.rl import corrections, grpo

CFG = dict(clip_low=0.2, clip_high=0.28, dual_clip=10.0, tis_cap=0.0, on_policy=True, temperature=1.0)
# One row: trajectory 1 of four tokens, the first of them given; trajectory 2 of two; padding.
SEGMENTS = jnp.array([[1, 1, 1, 1, 2, 2, 0]])
MASK = jnp.array([[0, 1, 1, 1, 1, 1, 0]], bool)
RATIOS = jnp.array([[1.0, 4.0, 1.0, 0.25, 1.5, 1.5, 1.0]])


def factor(**switches):
    cfg = grpo.GrpoConfig(**CFG | switches)
    made, touched = corrections.factor(jnp.log(RATIOS), MASK, SEGMENTS, cfg)
    shown = None if made is None else np.asarray(made)[0].tolist()
    return shown, {name: np.flatnonzero(x[0]).tolist() for name, x in touched.items()}


def test_nothing_is_on_by_default():
    assert factor() == (None, {})


def test_importance_weights_are_capped_above_only():
    made, touched = factor(tis_cap=2.0)
    np.testing.assert_allclose(made, [1, 2, 1, 0.25, 1.5, 1.5, 1], rtol=1e-6)
    assert touched == {"tis_frac": [1]}


def test_tokens_outside_the_band_are_masked_on_both_sides():
    assert factor(token_mask=2.0) == ([1, 0, 1, 0, 1, 1, 1], {"token_mask_frac": [1, 3]})
    assert factor(token_mask=5.0)[1] == {"token_mask_frac": []}


def test_icepop_is_a_mask_and_a_weight():
    made, _ = factor(token_mask=2.0, tis_cap=2.0)
    np.testing.assert_allclose(made, [1, 0, 1, 0, 1.5, 1.5, 1], rtol=1e-6)


def test_a_trajectory_is_masked_by_its_geometric_mean():
    """The first one's is (4 x 1 x 1/4)^(1/3) = 1, though two of its tokens are far off."""
    assert factor(sequence_mask=0.01) == (
        [1, 1, 1, 1, 0, 0, 1], {"sequence_mask_frac": [4, 5]}
    )  # fmt: skip
    assert factor(sequence_mask=0.6)[0] == [1] * 7


def test_means_are_of_the_masked_tokens_of_each_trajectory():
    values = jnp.array([[9.0, 1, 2, 3, 5, 7, 9], [1, 3, 9, 9, 9, 9, 9]])
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 2, 2, 2]])
    mask = jnp.array([[0, 1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0]], bool)
    got = corrections.trajectory_mean(values, mask, segments)
    np.testing.assert_allclose(got, [[2, 2, 2, 2, 6, 6, 0], [2, 2, 0, 0, 0, 0, 0]])
    # As many trajectories as tokens, and one row alone.
    np.testing.assert_allclose(
        corrections.trajectory_mean(values[0], mask[0] | True, jnp.arange(1, 8)), values[0]
    )


@pytest.mark.parametrize("switch, value", [("token_mask", 1.0), ("token_mask", -2.0),
                                           ("sequence_mask", -0.1), ("kl_coef", -1.0)])  # fmt: skip
def test_impossible_switches_are_refused(switch, value):
    with pytest.raises(ValueError, match=f"{switch}={value}"):
        grpo.GrpoConfig(**CFG | {switch: value})
