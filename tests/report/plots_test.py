"""Figures: valid, repeatable, absent where there is nothing; the running mean by hand."""

import io
import json

import matplotlib.image
import numpy as np
import pytest

from aster_jax.report import collapse, plots, records
from tests.report import made_run


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return records.read(made_run.write(tmp_path_factory.mktemp("run")))


def _draw(found):
    steps = [
        {"stage": stage, "step": step, **collapse.summarise(rows)}
        for (stage, step), rows in collapse.group(found.rl_rows, "stage", "step").items()
    ]
    summaries = {
        name: collapse.summarise(rows)
        for (name,), rows in collapse.group(found.eval_rows, "checkpoint").items()
    }
    return {
        "sft": plots.sft_curve(found.metrics),
        "rl": plots.rl_curves(found.metrics),
        "tools": plots.tool_curves(steps),
        "accuracy": plots.accuracy_bars(found.results),
        "calls": plots.calls_histograms(summaries),
    }


def test_every_figure_is_a_png_at_page_width(found):
    for name, png in _draw(found).items():
        pixels = matplotlib.image.imread(io.BytesIO(png), format="png")
        assert 300 < pixels.shape[0] < 1000 and 900 < pixels.shape[1] < 1600, name
        colours = (pixels * 255).astype(np.uint8).view(np.uint32)  # red, green, blue, alpha
        assert len(np.unique(colours)) > 50, name


def test_equal_data_gives_equal_bytes(found):
    lines = [m for m in found.metrics if "sft/probe_accuracy" not in m]
    assert plots.sft_curve(lines) == plots.sft_curve(lines)


def test_nothing_gives_no_figure():
    assert plots.sft_curve([]) is None
    assert plots.rl_curves([{"stage": "sft", "step": 1, "sft/loss": 1.0}]) is None
    assert plots.tool_curves([]) is None
    assert plots.accuracy_bars([]) is None
    assert plots.pass_curves([made_run.result("sft", "main", 0.5, 2.0, 12)]) is None  # k = 1
    assert plots.calls_histograms({"base": collapse.summarise([])}) is None


def test_bounds_arms_and_evaluations_are_drawn():
    plain = [made_run.result("sft", arm, 0.5, 2.0, 12) for arm in ("main", "no_tool", "think")]
    bound = [plain[0] | {"avg_upper": 0.9}, *plain[1:]]
    more = [*plain, plain[0] | {"evaluation": "cool"}]
    assert len({plots.accuracy_bars(r) for r in (plain[:1], plain, bound, more)}) == 4
    curve = [[1, 0.5, 0.4, 0.6], [2, 0.7, 0.6, 0.8]]
    several = [r | {"k": 2, "pass_curve": curve} for r in more]
    assert plots.pass_curves(several) != plots.pass_curves(several[:1])


def test_gaps_in_the_measurements_are_drawn_as_gaps():
    lines = [{"stage": "rl1", "step": s, "rollout/reward_mean": 0.5} for s in (1, 2)]
    for gap in ("NaN", "null"):
        lines[1]["rollout/entropy_mean"] = json.loads(gap)
        assert plots.rl_curves(lines)
    never_called = [collapse.measure(made_run.without_tool())]
    assert plots.tool_curves([{"stage": "rl1", "step": 1, **collapse.summarise(never_called)}])


def test_running_mean_by_hand():
    nan = float("nan")
    values = [1, 2, 6, 3, nan, 5, 0, 4]
    expected = [1.5, 3, 11 / 3, 4.5, 4, 2.5, 3, 2]
    np.testing.assert_allclose(plots.smooth(values), expected)
    np.testing.assert_allclose(plots.smooth([1, nan, 3]), [1, nan, 3])
    assert len(plots.smooth([])) == 0


def test_checkpoints_have_colours_of_their_own():
    shades = [plots.color(c) for c in ("base", "sft", "rl1", "rl2", "another")]
    assert len(set(shades)) == 5
