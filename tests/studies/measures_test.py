"""A member in numbers: from a workdir whose numbers are known, and what half a run leaves."""

import dataclasses

import numpy as np
import pytest

from aster_jax.report import records
from aster_jax.studies import measures
from tests.report import made_run


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    read = records.read(made_run.write(tmp_path_factory.mktemp("run")))
    demos = {"demos": 10, "trained_tokens_mean": 25.0, "calls_mean": 4.5}
    return dataclasses.replace(read, finished={**read.finished, "demos": demos})


def test_before_is_the_first_checkpoint_and_after_the_last(found):
    made = measures.measure(found).scalars
    by_name = {(r["checkpoint"], r["arm"]): r for r in found.results}
    assert made["accuracy_before"] == by_name["base", "main"]["avg_at_k"]
    assert made["accuracy_after"] == by_name["rl2", "main"]["avg_at_k"]
    assert made["eval_calls_after"] == by_name["rl2", "main"]["calls_mean"]
    assert made["alone_after"] is None  # this run was not evaluated without the tool
    assert (made["demo_tokens"], made["demo_calls"]) == (250.0, 4.5)
    assert {f"{f}_after" for f in made_run.FAMILIES} <= set(made)


def test_curves_go_over_both_stages_and_their_ends_are_means(found):
    made = measures.measure(found)
    assert all(len(made.curves[n]) == 24 for n in ("calls", "reward", "entropy"))
    assert made.scalars["calls_first"] == pytest.approx(
        np.mean([2.9 + 0.1 * np.sin(at) for at in range(1, 6)])
    )
    assert made.scalars["entropy_last"] == pytest.approx(
        np.mean([0.3 * np.exp(-at / 20) for at in range(20, 25)])
    )
    assert made.matrix == {"main": made.scalars["accuracy_after"]}


@pytest.mark.parametrize("calls, collapsed", [
    ([4.0] * 5 + [1.9] * 5, 1.0),  # below half
    ([4.0] * 5 + [2.1] * 5, 0.0),
    ([0.4] * 5 + [0.0] * 5, None),  # there was nothing to lose
    ([], None),
])  # fmt: skip
def test_a_collapse_is_half_of_the_calls_gone(calls, collapsed):
    assert measures._collapsed(calls) == collapsed


def test_a_run_that_only_began_has_no_numbers():
    nothing = records.RunRecords({}, {}, [], [], [], [], [], [])
    made = measures.measure(nothing)
    assert set(made.scalars.values()) == {None} and made.matrix == {}
