"""Model sizes: what cannot be built is refused, and the presets are the published ones."""

import dataclasses

import pytest

from aster_jax.model import config


def test_heads_must_divide(tiny):
    with pytest.raises(ValueError, match="num_heads=5 is not a multiple of num_kv_heads=2"):
        dataclasses.replace(tiny, num_heads=5)


def test_head_dim_must_be_even(tiny):
    with pytest.raises(ValueError, match="head_dim=7 must be even"):
        dataclasses.replace(tiny, head_dim=7)


def test_the_two_4b_releases_differ_in_positions_only():
    old, new = config.PRESETS["qwen3_4b"], config.PRESETS["qwen3_4b_thinking_2507"]
    assert (old.rope_theta, old.max_positions) == (1e6, 40_960)
    assert (new.rope_theta, new.max_positions) == (5e6, 262_144)
    assert dataclasses.replace(old, rope_theta=5e6, max_positions=262_144) == new
