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


def test_before_is_what_rl_starts_from_and_after_its_last_checkpoint(found):
    made = measures.measure(found).scalars
    by_name = {(r["checkpoint"], r["arm"]): r for r in found.results}
    assert made["accuracy_before"] == by_name["sft", "main"]["avg_at_k"]
    assert made["accuracy_after"] == by_name["rl2", "main"]["avg_at_k"]
    assert made["eval_calls_after"] == by_name["rl2", "main"]["calls_mean"]
    assert made["alone_after"] is None  # this run was not evaluated without the tool
    assert (made["demo_tokens"], made["demo_calls"]) == (250.0, 4.5)
    assert {f"{f}_after" for f in made_run.FAMILIES} <= set(made)


def evaluated(stages, *checkpoints, **accuracies):
    """A run of these stages whose checkpoints were evaluated in this order."""
    results = [
        {"checkpoint": name, "evaluation": "main", "arm": "main", "avg_at_k": accuracies[name],
         "pass_at_k": 0.5, "calls_mean": 1.0, "by_family": {}}
        for name in checkpoints
    ]  # fmt: skip
    return records.RunRecords({"stages": stages}, {}, [], results, [], [], [], [])


ACCURACIES = {"base": 0.1, "sft": 0.4, "rl1": 0.3, "rl2": 0.6}
ALL = ("demos", "sft", "rl1", "rl2", "eval")


@pytest.mark.parametrize("stages, checkpoints, before, after", [
    (ALL, ("base", "sft", "rl1", "rl2"), 0.4, 0.6),  # SFT's gain is not RL's
    (ALL, ("rl2", "rl1", "sft"), 0.4, 0.6),  # the order of the list says nothing
    (ALL[:3] + ("eval",), ("base", "sft", "rl1"), 0.4, 0.3),
    (ALL, ("base", "rl2"), None, 0.6),  # what RL started from was not evaluated
    (("rl1", "eval"), ("base", "rl1"), 0.1, 0.3),
    (("rl1", "rl2", "eval"), ("base", "rl1"), 0.1, 0.3),
    (("demos", "sft", "eval"), ("base", "sft"), 0.4, None),
    (("eval",), ("base",), 0.1, None),
])  # fmt: skip
def test_before_and_after_go_by_name(stages, checkpoints, before, after):
    made = measures.measure(evaluated(stages, *checkpoints, **ACCURACIES))
    assert (made.scalars["accuracy_before"], made.scalars["accuracy_after"]) == (before, after)
    assert made.has_rl == bool({"rl1", "rl2"} & set(stages))
    assert made.matrix == ({} if after is None else {"main": after})


def test_what_is_no_number_is_not_known():
    found = evaluated(("sft", "rl1", "eval"), "sft", "rl1", sft=float("nan"), rl1=0.5)
    steps = [{"stage": "rl1", "step": i, "time_s": 0.0, "rollout/calls_mean": value}
             for i, value in enumerate((4.0, None, float("nan"), 2.0))]  # fmt: skip
    del steps[1]["rollout/calls_mean"]  # what a step has none of
    made = measures.measure(dataclasses.replace(found, metrics=steps))
    assert made.scalars["accuracy_before"] is None and made.scalars["accuracy_after"] == 0.5
    assert made.curves["calls"] == [4.0, None, None, 2.0]
    assert made.scalars["calls_first"] == made.scalars["calls_last"] == 3.0


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
    nothing = records.RunRecords({"stages": ["rl1"]}, {}, [], [], [], [], [], [])
    made = measures.measure(nothing)
    assert set(made.scalars.values()) == {None} and made.matrix == {}
