"""The recipe as several processes of one machine, as hosts of a pod or terminals start it.

What they make is what one process with as many devices makes. Whichever of them is killed,
told to go or fails, all end, with a sentence, and the same command goes on.
"""

import json
import shutil
import signal
import time

import pytest

from tests import smoke_run
from tests.resume_test import assert_same_state, records, without_times

# How full the engine was: each process has slots of its own.
OCCUPANCY = ("occupancy", "pages_peak", "pages_peak_frac", "wasted_step_frac", "rows_set_aside",
             "compiles_after_warmup")  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    return smoke_run.finished()[0]


def measured(path):
    dropped = {f"rollout/{name}" for name in OCCUPANCY}
    lines = without_times(smoke_run.metrics(path))
    return [{k: v for k, v in r.items() if k not in dropped} for r in lines]


def several(path, *arguments, count=2, devices=1, at=None):
    """(code, stdout, stderr) of each process, after nothing went wrong with none of them."""
    began = time.monotonic()
    ended = smoke_run.launch_several(path, *arguments, count=count, devices=devices, at=at)
    return ended, time.monotonic() - began


def done(path, *arguments, **more):
    ended, _ = several(path, *arguments, **more)
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    assert [spoken(out) for _, out, _ in ended[1:]] == [[]] * (len(ended) - 1)  # process 0 speaks
    return ended[0][1]


def spoken(out):
    """Lines that are ours: Gloo says on standard output how many it is connected to."""
    return [line for line in out.splitlines() if line and not line.startswith("[Gloo]")]


def ended_with(ended, dead: int, *words: str):
    """All but `dead` have ended with exit code 1 and a sentence with these words."""
    for i, (code, out, err) in enumerate(ended):
        if i != dead:
            assert code == 1, (i, code, out, err)
            (said,) = [line for line in err.splitlines() if line.startswith("aster_jax: process")]
            assert all(word in said for word in words), said


@pytest.mark.slow
def test_demos_and_sft_of_two_processes_and_the_end_of_the_first(whole, tmp_path):
    path, only = tmp_path / "run", ("--config.stages=('demos','sft')", "--config.sft.steps=14")
    ended, _ = several(path, *only, at={0: "sft:13"})
    assert ended[0][0] == -signal.SIGKILL
    ended_with(ended, 0, "process 0 (", "ended without a word", "process 1 ends with it")
    assert [r["step"] for r in smoke_run.metrics(path)] == list(range(1, 13))
    assert "resumed after step 10" in done(path, *only)
    for name in ("demos.jsonl", "transcripts.jsonl", "tokenizer/tokenizer.model"):
        assert (path / "demos" / name).read_bytes() == (whole / "demos" / name).read_bytes()
    expected = [r for r in smoke_run.metrics(whole) if r["stage"] == "sft"][:14]
    for made, one in zip(smoke_run.metrics(path), expected, strict=True):
        assert made["step"] == one["step"]
        assert made["sft/loss"] == pytest.approx(one["sft/loss"], rel=1e-4)


@pytest.fixture(scope="module")
def one(whole, tmp_path_factory):
    """RL, filter, evaluation and report by one process with two devices, and the command."""
    _, _, how = smoke_run.rewarded()
    arguments = (
        *how, "--config.rl1.steps=2", "--config.rl2.steps=1", "--config.filter.min_kept=4",
        "--config.eval.checkpoints=('rl2',)", "--config.eval.think=False",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("one") / "run"
    smoke_run.begin_from(whole, path, "demos", "sft")
    done(path, *arguments, count=1, devices=2)
    return path, arguments


def assert_as_one(path, one, same_bits: bool):
    """Trajectories, updates and results are those of one process with as many devices."""
    made, expected = measured(path), measured(one)
    assert [(r["stage"], r["step"]) for r in made] == [(r["stage"], r["step"]) for r in expected]
    assert sum(r.get("rl/updates", 0) for r in expected) > 0, "nothing was learned"
    if same_bits:
        assert made == expected
    for a, b in zip(made, expected, strict=True):
        numbers = {k: v for k, v in b.items() if not isinstance(v, str)}
        assert {k: a[k] for k in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-5)
    files = [p.relative_to(one) for p in one.glob("*/*/step_*.jsonl")]
    files += [p.relative_to(one) for p in one.glob("eval/*_*.jsonl")]
    assert len(files) == 3 + 2
    for name in files:
        found, wanted = records(path / name), records(one / name)
        assert [r["tokens"] for r in found] == [r["tokens"] for r in wanted]
        assert [r["calls"] for r in found] == [r["calls"] for r in wanted]
        if same_bits:
            assert found == wanted
    for name in ("filter/kept.jsonl", "eval/results.json", "eval/differences.json"):
        assert (path / name).read_bytes() == (one / name).read_bytes(), name
    assert (path / "report" / "index.html").exists()
    left = [p.name for p in path.rglob("*") if "partial" in p.name or p.name.startswith(".shared")]
    assert not left and not (path / "LOCK").exists()


def test_rl_and_evaluation_of_two_processes_whatever_happens_to_them(whole, one, tmp_path):
    """Killed in an update, told to go in a rollout: they end with the bits of one process that
    nobody disturbed. (With two devices every sum over them is of two.)"""
    path, arguments = tmp_path / "run", one[1]
    smoke_run.begin_from(whole, path, "demos", "sft")

    ended, _ = several(path, *arguments, at={1: "update:1"})
    assert ended[1][0] == -signal.SIGKILL
    ended_with(ended, 1, "process 1 (", "ended without a word", "process 0 ends with it")
    assert not (path / "metrics.jsonl").exists()

    # The first phase is step 1 again, the second one step 2, which process 1 is told to leave.
    ended, _ = several(path, *arguments, at={1: "term-rollout:2"})
    assert [code for code, _, _ in ended] == [143, 143], ended
    assert "left on SIGTERM" in ended[0][1] and not any(err for _, _, err in ended)
    assert [r["step"] for r in smoke_run.metrics(path)] == [1]

    assert "resumed after step 1" in done(path, *arguments)
    assert_as_one(path, one[0], same_bits=True)
    for stage in ("rl1", "rl2"):
        assert_same_state(one[0], path, stage)


def test_processes_that_do_not_belong_together_are_refused(tmp_path):
    """By a sentence of each: another config; too few of what a tensor group needs."""
    other = "--config.mesh.tensor=2", "--config.mesh.data=1"
    ended, _ = several(tmp_path / "run", *other)
    for code, _, err in ended:
        assert code == 1 and "Traceback" not in err
    assert any("mesh.tensor=2 goes over several processes" in err for _, _, err in ended)


@pytest.mark.slow
@pytest.mark.parametrize("count, devices", [(2, 2), (4, 1)])
def test_four_devices_in_any_number_of_processes(count, devices, whole, one, tmp_path):
    """The whole recipe from nothing; RL with the same weights as one process, to rounding."""
    small = ("--config.sft.micro_rows=4", "--config.rl.micro_rows=4")
    alone, path = tmp_path / "alone", tmp_path / "run"
    for made in (alone, path):
        smoke_run.begin_from(whole, made, "demos", "sft")
    done(alone, *one[1], *small, count=1, devices=4)
    done(path, *one[1], *small, count=count, devices=devices)
    assert_as_one(path, alone, same_bits=False)
    done(tmp_path / "new", *small, count=count, devices=devices)
    for stage in smoke_run.STAGES:
        json.loads((tmp_path / "new" / stage / "DONE.json").read_text())


@pytest.mark.slow
def test_what_had_ended_is_not_made_again_by_another_number_of_processes(whole, tmp_path):
    """Without a fixed schedule: two of them are killed in a rollout, and one or four go on."""
    how = (
        "--config.stages=('demos','sft','rl1')", "--config.rl1.steps=1",
        "--config.rollout.lockstep=False", "--config.rollout.steps_per_dispatch=4",
        "--config.rollout.slots=8", "--config.rollout.pool_tokens=2048",
    )  # fmt: skip
    begun = tmp_path / "begun"
    smoke_run.begin_from(whole, begun, "demos", "sft")
    ended, _ = several(begun, *how, at={1: "rollout:1:45"})
    ended_with(ended, 1, "process 1 (", "ended without a word")
    parts = sorted((begun / "rl1" / "episodes").glob("*.partial"))
    assert "step_000001.jsonl.1.partial" in [p.name for p in parts]  # the other may be behind
    kept = [json.loads(line) for p in parts for line in p.read_text().splitlines()]
    for count in (1, 4):
        path = tmp_path / str(count)
        shutil.copytree(begun, path)
        done(path, *how, count=count)
        text = (path / "rl1" / "episodes" / "step_000001.jsonl").read_text()
        made = [json.loads(line) for line in text.splitlines()]
        assert len(made) == 32 and kept
        assert all(r in made for r in kept)  # with the seconds that they took then
        assert [p.name for p in (path / "rl1" / "episodes").iterdir()] == ["step_000001.jsonl"]
