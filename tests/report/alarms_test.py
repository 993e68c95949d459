"""When the sentence is said, and when it is not."""

import pytest

from aster_jax.report import alarms
from tests.report import made_run


@pytest.mark.parametrize(
    "before, now, word",
    [
        (4.0, 2.0, "collapsed: 2.00 calls per trajectory, 50 % of the 4.00 before RL."),
        (4.0, 0.0, "collapsed"),
        (4.0, 2.01, ""),
        (4.0, 7.99, ""),
        (4.0, 8.0, "exploded: 8.00 calls per trajectory, 200 % of"),
        (0.0, 5.0, ""),
        (None, 5.0, ""),
        (4.0, None, ""),
        (4.0, float("nan"), ""),
        (float("nan"), 4.0, ""),
    ],
)
def test_half_and_double(before, now, word):
    said = alarms.tool_use(before, now)
    assert word in said and bool(said) == bool(word)


def test_one_step_is_no_alarm_and_five_are():
    assert alarms.in_training([4.0]) == ""
    assert alarms.in_training([4.0, 4.0, 4.0, 4.0, 4.0, 1.0]) == ""
    assert "collapsed: 1.60" in alarms.in_training([4.0, 9.0, 4.0, 1.0, 1.0, 1.0, 1.0])


def steps(*calls):
    return [{"stage": "rl1", "step": i, "rollout/calls_mean": x} for i, x in enumerate(calls, 1)]


def test_what_happened_in_the_middle_is_told_too():
    said = alarms.of_run([], steps(2, 2, 2, 8, 9, 9, 9, 8, 2, 2, 2, 2, 2, 2))
    assert said == [
        "rl1 step 4 to rl1 step 11, and not at the end: Tool use has exploded: 8.60 calls per "
        "trajectory, 430 % of the 2.00 before RL."
    ]
    said = alarms.of_run([], steps(4, 0, 0, 0, 0, 0, 50, 50, 50))
    assert len(said) == 2 and "rl1 step 2 to rl1 step 6" in said[0] and "collapsed: 0.00" in said[0]
    assert "At the end of training: Tool use has exploded: 30.00" in said[1]


def test_news_is_another_change_than_the_last():
    calls = [10.0]
    told = []
    for x in (10, 10, 10, 10, 0, 0, 0, 10, 10, 10, 0, 0, 0, 0, 0, 90, 90, 90, 90):
        calls.append(x)
        if alarms.is_news(calls):
            told.append((len(calls), alarms.in_training(calls)[13:22].strip(":")))
    assert told == [(8, "collapsed"), (18, "exploded")]


def made(calls, without, checkpoints=("sft", "rl1", "rl2")):
    found = []
    for name, mean, right in zip(checkpoints, calls, without, strict=True):
        found.append(made_run.result(name, "main", 0.5, mean, 12))
        found.append(made_run.result(name, "think", right, 0.0, 12))
    return found


def test_a_run_as_it_should_be_says_nothing():
    lines = steps(4.0, 3.5, 4.5)
    assert alarms.of_run(made((4.0, 3.0, 5.0), (0.5, 0.5, 0.4)), lines) == []
    assert alarms.of_run([], []) == []


def test_what_a_report_says_of_collapse_and_forgetting():
    lines = [{"stage": "sft", "rollout/calls_mean": 100.0}]
    lines += steps(4.0, 1.0)
    said = alarms.of_run(made((4.0, 3.0, 1.0), (0.6, 0.4, 0.1)), lines)
    assert said == [
        "rl2: Tool use has collapsed: 1.00 calls per trajectory, 25 % of the 4.00 before RL.",
        "Without the tool (think) accuracy fell from 60.0 % after SFT to 10.0 %: what the policy "
        "could do alone is going.",
        "At the end of training: Tool use has collapsed: 1.00 calls per trajectory, 25 % of the "
        "4.00 before RL.",
    ]


def test_a_fall_within_the_interval_is_not_called_forgetting():
    results = made((4.0, 4.0), (0.2, 0.08), ("sft", "rl1"))
    assert results[-1]["avg_high"] > 0.1 and alarms.of_run(results, []) == []
