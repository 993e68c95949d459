"""Advantages by hand: of a group of four, with and without the deviation, and what is lost."""

import pytest

from aster_jax.report import advantages

CONFIG = {
    "rl": {
        "normalise": "group", "overlong_share": 0.2, "turn_tokens": 48, "response_tokens": 192,
        "context_tokens": 256, "loss": "clip", "divide_by_std": True, "min_group": 0.5, "mask_void": False,
        "on_turn_budget": "mask", "on_token_budget": "mask", "on_context_budget": "mask",
        "on_call_budget": "keep", "on_malformed": "keep", "on_deadline": "drop",
    },
    "rl2": {"divide_by_std": False, "on_token_budget": None},
}  # fmt: skip


def rows(stage, **last):
    made = [
        {"stage": stage, "step": 1, "problem": "p", "end": "answered", "verdict": "equal",
         "reward": float(i == 0), "advantage": None} for i in range(4)
    ]  # fmt: skip
    made[-1] |= last
    return made


def found(stage, config=CONFIG, **last):
    made = rows(stage, **last)
    advantages.fill(made, config)
    return [row["advantage"] for row in made]


def test_over_the_deviation_and_without_it():
    # Rewards 1 0 0 0: mean 1/4, deviation 1/2.
    assert found("rl1") == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    assert found("rl2") == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_what_is_lost_or_masked_has_none():
    assert found("rl2", end="infrastructure") == pytest.approx([2 / 3, -1 / 3, -1 / 3, None], abs=1e-4)
    # Cut by a budget it still counts for the others, but its own tokens are left out.
    assert found("rl2", end="token_budget") == pytest.approx([0.75, -0.25, -0.25, None])


def test_an_older_config_gives_none():
    assert found("rl1", {"name": "old"}) == [None] * 4


def test_what_a_row_cannot_tell_is_not_guessed():
    for section in ({"mask_void": True}, {"on_token_budget": "soft"}):
        assert found("rl1", {"rl": CONFIG["rl"] | section}) == [None] * 4


def test_without_the_deviation_where_the_loss_has_none():
    without = {"rl": CONFIG["rl"] | {"loss": "dr_grpo"}}
    assert found("rl1", without) == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_the_evaluation_has_none():
    made = rows("eval")
    advantages.fill(made, CONFIG)
    assert [row["advantage"] for row in made] == [None] * 4
