"""The whole recipe by its one command: every stage, every file, once more, and once wrong."""

import json
import re

import pytest

from tests import smoke_run


@pytest.fixture(scope="module")
def run():
    return smoke_run.finished()


def test_every_stage_finishes_in_time(run):
    path, out, seconds = run
    for stage in smoke_run.STAGES:
        json.loads((path / stage / "DONE.json").read_text())
    assert f"smoke in {path}" in out and "see " in out.splitlines()[-1]
    # 90 s on two idle cores; the bound leaves room for a busy machine.
    assert seconds < 400


def test_metrics_have_a_line_per_step(run):
    path = run[0]
    config = json.loads((path / "config.json").read_text())
    lines = smoke_run.metrics(path)
    expected = [
        (stage, step)
        for stage in ("sft", "rl1", "rl2")
        for step in range(1, config[stage]["steps"] + 1)
    ]
    assert [(r["stage"], r["step"]) for r in lines] == expected
    losses = [r["sft/loss"] for r in lines if r["stage"] == "sft"]
    assert losses[-1] < 1 < 5 < losses[0]
    for r in lines:
        assert r["time_s"] >= 0
        if r["stage"] != "sft":
            assert r["rollout/calls_mean"] > 1, "SFT did not teach to call the tool"
            assert 0 <= r["rollout/reward_mean"] <= 1 and r["rollout/tokens_per_s"] > 0
            # Most of these steps make no update; float32 rounds, so it is hardly ever 0.
            assert 0 < r["rl/logp_diff_mean"] <= r["rl/logp_diff_max"] < 2e-5


def test_episodes_hold_real_calls(run):
    path = run[0]
    config = json.loads((path / "config.json").read_text())
    size = config["rl"]["prompts"] * config["rl"]["group"]
    for step in range(1, config["rl1"]["steps"] + 1):
        text = (path / "rl1" / "episodes" / f"step_{step:06d}.jsonl").read_text()
        records = [json.loads(line) for line in text.splitlines()]
        assert len(records) == size
        calls = [c for r in records for c in r["calls"]]
        assert any(c["status"] == "ok" and c["text"] for c in calls)
        assert all(r["num_calls"] <= config["rl1"]["max_calls"] for r in records)
        assert all(r["num_tokens"] <= config["rl1"]["context_tokens"] for r in records)


def test_results_compare_every_checkpoint_with_and_without_the_tool(run):
    results = json.loads((run[0] / "eval" / "results.json").read_text())
    assert [(r["checkpoint"], r["arm"]) for r in results] == [
        (c, a) for c in ("base", "sft", "rl1", "rl2") for a in ("main", "no_tool", "think")
    ]
    for r in results:
        assert r["n_problems"] == 16 and r["k"] == 1
        assert 0 <= r["avg_low"] <= r["avg_at_k"] <= r["avg_high"] <= 1
        assert sum(r["end"].values()) == pytest.approx(1)
        assert set(r["by_family"]) == {"prod", "lcm", "count"}
        assert r["max_calls"] == (6 if r["arm"] == "main" else 0)
    by_name = {(r["checkpoint"], r["arm"]): r for r in results}
    assert by_name["sft", "main"]["calls_mean"] > 1 > by_name["base", "main"]["calls_mean"]
    assert by_name["sft", "no_tool"]["calls_mean"] == 0


def test_the_report_is_one_file(run):
    page = (run[0] / "report" / "index.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "data:image/png;base64," in page and 'data-kind="texts"' in page
    elsewhere = re.findall(r"""<(?:script|img|link)[^>]+(?:src|href)=["'](?!data:|#)[^"']*""", page)
    assert not elsewhere, elsewhere


def test_again_skips_everything_and_another_config_is_refused(run):
    path = run[0]
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*.json*")}
    code, out, err, seconds = smoke_run.launch(path)
    assert code == 0, err
    said = [line for line in out.splitlines() if "finished before, skipped" in line]
    assert len(said) == len(smoke_run.STAGES)
    assert seconds < 90  # an import and no work
    code, out, err, _ = smoke_run.launch(path, "--config.seed=5")
    assert code == 1 and "Traceback" not in err
    sentence = [line for line in err.splitlines() if line.startswith("aster_jax:")]
    assert len(sentence) == 1 and "seed: 0 -> 5" in sentence[0] and "--workdir" in sentence[0]
    after = {p: p.stat().st_mtime_ns for p in path.rglob("*.json*")}
    changed = {p.name for p in after if p not in before or before[p] != after[p]}
    assert changed <= {"config.json"}, changed


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["tensor", "context"])
def test_every_stage_runs_on_eight_devices(run, tmp_path, inner):
    """Two ways each of data, fsdp and one more; what one device learns, eight learn."""
    axes = ("--config.mesh.data=2", "--config.mesh.fsdp=2", f"--config.mesh.{inner}=2")
    micro = ("--config.sft.micro_rows=4", "--config.rl.micro_rows=4")
    code, out, err, _ = smoke_run.launch(
        tmp_path / "run", *axes, *micro, limit_s=1800.0, devices=8
    )
    assert code == 0, f"{out}\n{err}"
    assert [(r["stage"], r["step"]) for r in smoke_run.metrics(tmp_path / "run")] == [
        (r["stage"], r["step"]) for r in smoke_run.metrics(run[0])
    ]
    one, eight = (
        next(r for r in smoke_run.metrics(path) if r["stage"] == "sft")
        for path in (run[0], tmp_path / "run")
    )
    assert eight["sft/loss"] == pytest.approx(one["sft/loss"], rel=1e-4)
