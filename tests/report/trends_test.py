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
    assert trends.time_curves([{"stage": "rl1", "step": 1}]) is None
    assert trends.runs_curves({"a": []}) is None and trends.runs_accuracy({"a": []}) is None


def test_figures_of_few_numbers_are_drawn():
    summary = collapse.summarise([collapse.measure(made_run.episode())])
    steps = [{"stage": "rl1", "step": step, **summary} for step in (1, 2)]
    result = made_run.result("sft", "main", 0.5, 2.0, 4)
    for made in (
        trends.ending_areas(steps), trends.time_curves(LINES),
        trends.runs_curves({"a": LINES, "b": []}), trends.runs_accuracy({"a": [result], "b": []}),
    ):  # fmt: skip
        assert made.startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error")
def test_steps_without_any_call_are_drawn_without_a_word():
    summary = collapse.summarise([collapse.measure(made_run.episode())]) | {"call_status": {}}
    made = trends.ending_areas([{"stage": "rl1", "step": 1, **summary}])
    assert made.startswith(b"\x89PNG")
