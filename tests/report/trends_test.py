"""Figures over steps: they are drawn of what is there, and are none of nothing."""

import pytest

from aster_jax.report import collapse, trends
from tests.report import made_run

LINES = [
    {"stage": "rl1", "step": step, "time/rollout_s": 1.0, "rl/logp_diff_mean": 0.0,
     "rollout/reward_mean": 0.5} for step in range(1, 5)
]  # fmt: skip


def test_nothing_is_no_figure():
    assert trends.ending_areas([]) is None and trends.time_curves([]) is None
    assert trends.health_curves([], LINES) is None
    assert trends.time_curves([{"stage": "rl1", "step": 1}]) is None
    assert trends.runs_curves({"a": []}) is None and trends.runs_accuracy({"a": []}) is None


def test_figures_of_few_numbers_are_drawn():
    summary = collapse.summarise([collapse.measure(made_run.episode())])
    steps = [{"stage": "rl1", "step": step, **summary} for step in (1, 2)]
    result = made_run.result("sft", "main", 0.5, 2.0, 4)
    for made in (
        trends.ending_areas(steps), trends.time_curves(LINES), trends.health_curves(steps, LINES),
        trends.runs_curves({"a": LINES, "b": []}), trends.runs_accuracy({"a": [result], "b": []}),
    ):  # fmt: skip
        assert made.startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error")
def test_steps_without_any_call_are_drawn_without_a_word():
    summary = collapse.summarise([collapse.measure(made_run.episode())]) | {"call_status": {}}
    steps = [{"stage": "rl1", "step": 1, **summary}]
    assert trends.ending_areas(steps).startswith(b"\x89PNG")
    nothing = {key: None for key in summary if key not in ("end", "call_status", "turn_state")}
    steps.append({**steps[0], **nothing, "turn_state": {}, "step": 2})
    for shown in (steps, steps[1:]):
        assert trends.health_curves(shown, []).startswith(b"\x89PNG")


def test_every_instrument_of_a_step_is_in_a_figure():
    """What is logged of the tool in every step can be seen over the steps."""
    drawn = {key for *_, curves in trends.HEALTH for _, key in curves}
    elsewhere = {"only_verifies_frac", "failed_call_frac", "malformed_call_frac"}  # plots.tool_curves
    assert set(collapse.LOGGED) - elsewhere - {"void_trajectory_frac"} <= drawn
