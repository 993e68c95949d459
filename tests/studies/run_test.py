"""A study by its one command: whole, killed at random moments, and with a real finding's size."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from aster_jax import config, workdir
from aster_jax.errors import GaveUp, InputError
from aster_jax.studies import run
from tests.studies import made_member

ROOT = pathlib.Path(__file__).resolve().parents[2]
KILLS = 5
FILES = ("study.md", "study.json")


def start(config, path, out, *more):
    """The command as a user gives it, in a process group of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "aster_jax.main", f"--config={config}", f"--workdir={path}", *more],
        cwd=ROOT, env=environment, stdout=out, stderr=out,
    )  # fmt: skip


def finish(config, path, log):
    began = time.monotonic()
    with open(log, "a") as out:
        assert start(config, path, out).wait(7200) == 0, log.read_text()[-3000:]
    return time.monotonic() - began


def test_a_member_with_more_to_do_is_not_finished(tmp_path):
    """So that study.at_once makes several of those at once that are given more steps."""
    c = config.default()
    (tmp_path / "report").mkdir()
    (tmp_path / "config.json").write_text(workdir.as_json(c))
    assert not run._is_finished(c, tmp_path)
    (tmp_path / "report" / "DONE.json").write_text("{}")
    assert run._is_finished(c, tmp_path)
    c.rl2.steps += 1
    assert not run._is_finished(c, tmp_path)


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """A study of members that are files alone; those of `bad` give up. Its JSON, None for none."""
    monkeypatch.setattr(run, "_measure", lambda path: made_member.numbers())

    def play_all(c, bad=(), at_each=lambda place: None):
        def play(config, path):
            at_each(place := f"{path.relative_to(tmp_path)}")
            if place in bad:
                raise GaveUp(f"{place} gave up")
            made_member.play(config, path)

        try:
            run.run(c, tmp_path, play, lambda place: [])
        finally:
            found = tmp_path / "study.json"
            kept = json.loads(found.read_text()) if found.exists() else None
        return kept

    return play_all


@pytest.mark.parametrize("bad", ["a/seed_0", "b/seed_0"])
def test_who_gives_up_is_on_the_page_whether_first_or_last(tmp_path, compare, bad):
    found = compare(made_member.study(), [bad])
    assert found["left_out"] == {bad: f"{bad} gave up"} and not found["missing"]
    assert f"{bad} is left out" in (tmp_path / "study.md").read_text()


def test_a_study_in_which_all_give_up_says_so(tmp_path, compare):
    with pytest.raises(GaveUp, match="no member of .* could be made; .*study.md"):
        compare(made_member.study(), ["a/seed_0", "b/seed_0"])
    assert len(json.loads((tmp_path / "study.json").read_text())["left_out"]) == 2
    assert (tmp_path / "study.png").exists()


def test_a_table_never_becomes_smaller(tmp_path, compare):
    """Neither when the command is given again nor when a seed is added."""
    first = compare(made_member.study(seeds=(0, 1)))
    seen = []

    def look(place):
        kept = json.loads((tmp_path / "study.json").read_text())
        seen.append((place, sum(len(v["seeds"]) for v in kept["variants"].values())))

    assert compare(made_member.study(seeds=(0, 1)), at_each=look) == first
    assert [n for _, n in seen] == [4, 4, 4, 4]
    seen.clear()
    grown = compare(made_member.study(seeds=(2, 0, 1)), at_each=look)
    assert seen == [("a/seed_0", 4), ("b/seed_0", 4), ("a/seed_1", 4), ("b/seed_1", 4),
                    ("a/seed_2", 4), ("b/seed_2", 5)]  # fmt: skip
    assert not grown["missing"] and list(grown["variants"]) == ["a", "b"]


def test_a_page_of_a_part_names_the_rest(tmp_path, compare):
    def leave(place):
        if place == "b/seed_0":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(made_member.study(), at_each=leave)
    assert "1 of 2 members; missing: b/seed_0." in (tmp_path / "study.md").read_text()


def test_members_share_what_they_would_make_alike(tmp_path, compare, capsys):
    compare(made_member.study())
    assert "b/seed_0 starts from demos and sft of a/seed_0" in capsys.readouterr().out
    assert (tmp_path / "b" / "seed_0" / "sft" / "shared.json").exists()
    again = made_member.study(seeds=(1, 2))
    configs = {m: run.plan.config_of(again, m) for m in run.plan.members(again)}
    assert [m.path for m in run._leaders_first(configs)] == [
        "a/seed_1", "a/seed_2", "b/seed_1", "b/seed_2",
    ]  # fmt: skip


@pytest.mark.parametrize("variant, says", [
    ({"problems.families": ("nope",)}, "variant 'c'.*nope"),
    ({"model.source": "/no/where"}, "variant 'c'.*/no/where"),
])  # fmt: skip
def test_what_a_variant_reads_is_looked_for_before_anything_runs(compare, variant, says):
    variants = ({"name": "a"}, {"name": "c", **variant})
    played = []
    with pytest.raises(InputError, match=says):
        compare(made_member.study(variants=variants), at_each=played.append)
    assert not played


@pytest.mark.slow
def test_killed_at_random_moments_or_made_one_by_one_it_gives_the_same_table(tmp_path):
    config = "experiments/studies/cold_start.py:smoke"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seconds = finish(config, whole, tmp_path / "whole.log")
    rng = random.Random(0)
    with open(tmp_path / "killed.log", "a") as out:
        for _ in range(KILLS):
            process = start(config, killed, out)
            try:
                process.wait(rng.uniform(0.05, 0.4) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
    finish(config, killed, tmp_path / "killed.log")
    with open(tmp_path / "array.log", "a") as out:  # one by one, as a job array does
        for place in ("base", "dense/seed_1", "zero/seed_0"):
            one = start(config, tmp_path / "array", out, f"--member={place}")
            assert one.wait(7200) == 0, (tmp_path / "array.log").read_text()[-3000:]
    finish(config, tmp_path / "array", tmp_path / "array.log")
    for name in FILES:
        assert (whole / name).read_text() == (killed / name).read_text(), name
        assert (whole / name).read_text() == (tmp_path / "array" / name).read_text(), name
    assert (whole / "study.png").read_bytes() == (killed / "study.png").read_bytes()


@pytest.mark.slow
def test_two_at_once_and_told_to_go_it_gives_the_same_table(tmp_path):
    """Beside members that were never disturbed: those with all cores differ in the last bits."""
    config, two = "experiments/studies/cold_start.py:smoke", "--config.study.at_once=2"
    for name in ("whole", "left"):
        out = tmp_path / f"{name}.log"
        with out.open("a") as log:
            process = start(config, tmp_path / name, log, two)
            if name == "left":
                while not (tmp_path / name / "study.md").exists():  # at least one member is done
                    assert process.poll() is None, out.read_text()[-3000:]
                    time.sleep(0.5)
                process.send_signal(signal.SIGTERM)
                assert process.wait(120) == 143, out.read_text()[-3000:]
                process = start(config, tmp_path / name, log, two)
            assert process.wait(7200) == 0, out.read_text()[-3000:]
    for name in FILES:
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "left" / name).read_text(), name


@pytest.mark.slow
def test_the_small_study_compares_every_start(tmp_path):
    finish("experiments/studies/cold_start.py:small", tmp_path / "run", tmp_path / "log")
    found = json.loads((tmp_path / "run" / "study.json").read_text())
    assert list(found["variants"]) == ["zero", "forced", "sparse", "quarter", "half", "dense"]
    assert not found["left_out"]
    mean = {v: {k: e["mean"] for k, e in x["estimates"].items()} for v, x in found["variants"].items()}
    assert mean["dense"]["demo_calls"] > 5 > 1 == mean["sparse"]["demo_calls"]
    tokens = [mean[v]["demo_tokens"] for v in ("sparse", "quarter", "half", "dense")]
    assert max(tokens) < 1.2 * min(tokens), "the starts must be of equally many tokens"
    assert mean["dense"]["calls_first"] > mean["zero"]["calls_first"]
    for variant in found["variants"].values():
        (seed,) = variant["seeds"].values()
        assert len(seed["curves"]["calls"]) == 16
