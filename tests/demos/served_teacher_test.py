"""A checkpoint of ours as the teacher of another run: served in one process, asked by another."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from aster_jax.demos import render, transcript
from tests import smoke_run

pytest.importorskip("uvicorn", reason="the server needs uvicorn and starlette")
PROBLEMS, SAMPLES = 12, 2


@contextlib.contextmanager
def served(workdir, log):
    """`python -m aster_jax.serve` on a free port; its address."""
    command = [
        sys.executable, "-m", "aster_jax.serve", f"--model={workdir}", "--checkpoint=sft", "--port=0",
        "--slots=8", "--context_tokens=1024", "--name=smoke",
    ]  # fmt: skip
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(smoke_run.HASTY)}
    with open(log, "w") as out:
        process = subprocess.Popen(
            command, cwd=smoke_run.ROOT, env=environment, stdout=out, stderr=out
        )
        try:
            until = time.monotonic() + 300
            while not (said := re.search(r"sft, step 60, .* at (http://\S+/v1)", log.read_text())):
                assert process.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield said[1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0 and "stopped" in log.read_text(), log.read_text()
        finally:
            process.kill()
            process.wait()


def teach(path, url, **more):
    """The demos stage of a run that asks the server; its curation report."""
    keys = {
        "demos.source": "endpoint", "demos.teacher.url": url, "demos.teacher.model": "smoke",
        "demos.teacher.problems": PROBLEMS, "demos.teacher.samples": SAMPLES,
        "demos.teacher.turn_tokens": 64, "demos.teacher.response_tokens": 256,
        "demos.teacher.max_calls": 6, "demos.teacher.retries": 0, "demos.count": 20,
        "demos.right_only": False, "demos.min_calls": 0, "demos.max_void": 1,
        "demos.teacher.price_prompt": 1.0, "demos.teacher.price_written": 2.0, "sft.row_tokens": 512,
        "model.vocab_size": 400,  # it learns its own from what the teacher says
    } | more  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    code, out, err, _ = smoke_run.launch(path, "--config.stages=('demos',)", *flags)
    assert code == 0, f"{out}\n{err}"
    return json.loads((path / "demos" / "curation.json").read_text())


def check_counts(path, report):
    """Everything that was asked is kept or dropped by a named rule, and everything is paid once."""
    where, teacher = path / "demos", report["teacher"]
    assert teacher["asked"] == PROBLEMS * SAMPLES == sum(teacher["reasons"].values())
    assert set(teacher["tokens_by_reason"]) == set(teacher["reasons"])
    spent = teacher["prompt_tokens"] + teacher["completion_tokens"]
    assert spent == sum(teacher["tokens_by_reason"].values()) > 0
    left = teacher["asked"]
    for line in report["rules"]:
        assert line["before"] == left and line["after"] == left - sum(line["reasons"].values())
        left = line["after"]
    kept, made = render.load_demos(where / "demos.jsonl"), transcript.load(where / "transcripts.jsonl")
    assert left == report["kept"] == len(kept) == len(made) > 0
    dropped = [json.loads(line) for line in (where / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == sum(report["dropped"].values()) == teacher["asked"] - left
    events = [json.loads(line) for line in (where / "journal.jsonl").read_text().splitlines()]
    turns = [e for e in events if e["event"] == "turn"]
    assert len(turns) == teacher["turns"]
    assert sum(e["prompt_tokens"] for e in turns) == teacher["prompt_tokens"]
    assert sum(e["completion_tokens"] for e in turns) == teacher["completion_tokens"]
    ends = [e for e in events if e["event"] == "end"]
    assert len(ends) == teacher["asked"] == len({e["key"] for e in ends})
    money = (teacher["prompt_tokens"] + 2 * teacher["completion_tokens"]) / 1e6
    assert teacher["money"] == pytest.approx(money)
    return made, events


@pytest.mark.slow
def test_a_served_checkpoint_teaches_another_run(tmp_path):
    run, _, _ = smoke_run.finished()
    raw = {"demos.teacher.api": "completions", "demos.teacher.show_tool": False}
    with served(run, tmp_path / "server.log") as url:
        report = teach(tmp_path / "raw", url, **raw)
        made, events = check_counts(tmp_path / "raw", report)
        # It was taught to call the tool, and its calls were run by the asking process.
        calls = sum(t.num_calls for t in made)
        results = [e for e in events if e["event"] == "result"]
        assert len(results) >= calls > PROBLEMS
        assert "ok" in {e["status"] for e in results}
        assert any(t.finished and t.num_calls >= 3 for t in made)
        # In a chat the tool's schema is shown, which this model has never seen: whatever it
        # says then, it is accounted for.
        check_counts(tmp_path / "chat", teach(tmp_path / "chat", url))
    # What is paid is in the journal: the same again needs no server.
    again = teach(
        tmp_path / "again", url, **raw, **{"demos.teacher.journal": tmp_path / "raw/demos/journal.jsonl"}
    )
    assert again["teacher"] == report["teacher"] and again["rules"] == report["rules"]
