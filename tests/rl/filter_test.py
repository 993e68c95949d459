"""The filter between the stages: which visit counts and who goes."""

import json
import weakref

import pytest

from aster_jax import config, errors, types, workdir
from aster_jax.rl import filter as filters


def record(problem, step, reward, end="answered", verdict="right"):
    return dict(problem_id=problem, step=step, reward=reward, end=end, verdict=verdict)


def test_the_last_visit_counts():
    visits = filters.last_visits(
        [
            record("a", 1, 1.0), record("a", 1, 1.0), record("a", 7, 0.0), record("a", 7, 1.0),
            record("b", 9, 1.0), record("b", 2, 0.0),
        ]
    )  # fmt: skip
    assert visits == {"a": filters.Visit(7, 2, 0.5), "b": filters.Visit(9, 1, 1.0)}


def test_failures_of_ours_are_no_visit():
    visits = filters.last_visits(
        [
            record("a", 1, 1.0),
            record("a", 2, 0.0, end="infrastructure"),
            record("b", 1, 0.0, verdict="verifier_timeout"),
            record("c", 3, 1.0),
            record("c", 3, 0.0, verdict="verifier_error"),
        ]
    )
    assert visits == {"a": filters.Visit(1, 1, 1.0), "c": filters.Visit(3, 1, 1.0)}


def test_one_survivor_does_not_make_a_problem_solved():
    """Solved by the one trajectory of eight that was not lost: nobody knows."""
    lost = [record("a", 3, 0.0, end="deadline")] * 7
    assert filters.last_visits([record("a", 3, 1.0), *lost], 4) == {}
    earlier = [record("a", 1, 0.0)] * 4
    visits = filters.last_visits([*earlier, record("a", 3, 1.0), *lost], 4)
    assert visits == {"a": filters.Visit(1, 4, 0.0)}


def test_records_are_read_as_a_stream():
    """A long run's texts do not fit in memory: nothing of a record is kept but numbers."""
    alive = []

    class Watched(dict):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            alive.append(weakref.ref(self))

    def stream():
        for step in range(50):
            yield Watched(record("a", step, 1.0), spans="x" * 1000)
            assert sum(ref() is not None for ref in alive) <= 2

    assert filters.last_visits(stream())["a"].step == 49


def test_solved_problems_come_back_when_too_few_are_left():
    lines = [dict(id=i, kept=i == "b") for i in "abcd"]
    assert filters.bring_back(lines, 3) == 2
    assert [x["id"] for x in lines if x["kept"]] == ["a", "b", "c"]
    assert filters.bring_back(lines, 9) == 1 and all(x["kept"] for x in lines)
    assert filters.bring_back(lines, 0) == 0


def test_the_pool_is_the_one_that_stage_1_has_trained_on(tmp_path, one_device):
    """What it left out when it began, although the held-out file has moved since and nothing is
    measured any more."""
    c = config.default()
    c.name, c.rl.eval_every, c.problems.num_validation = "t", 5, 3
    for name, numbers in (("p", range(20)), ("held", range(4))):
        lines = [json.dumps({"question": f"What is {n}+1?", "answer": f"{n + 1}"}) for n in numbers]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    c.problems.source, c.problems.heldout = str(tmp_path / "p.jsonl"), str(tmp_path / "held.jsonl")
    run = workdir.open_run(c, tmp_path / "run", one_device)
    run.begin("rl1")
    run.finish("rl1", {"step": 30})
    c.problems.heldout = str((tmp_path / "held.jsonl").rename(tmp_path / "moved.jsonl"))
    c.rl.eval_every = 0
    filters.run(workdir.open_run(c, tmp_path / "run", one_device))
    kept = (tmp_path / "run" / "filter" / "kept.jsonl").read_text().splitlines()
    assert len(kept) == 20 - 4 - 3


def test_keep_reads_the_file_in_the_pools_order(tmp_path):
    path = tmp_path / "kept.jsonl"
    lines = [dict(id="b", kept=True), dict(id="a", kept=True), dict(id="c", kept=False)]
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    pool = [types.Problem(i, "q", "1", "f") for i in "abcd"]
    assert [p.id for p in filters.keep(pool, path)] == ["a", "b"]


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run the filter stage before rl2"):
        filters.keep([], tmp_path / "kept.jsonl")


@pytest.mark.parametrize("line, complaint", [('{"id": "a", "ke', "row 2"), ('{"id": "a"}', "'kept'")])
def test_a_damaged_file_is_named(tmp_path, line, complaint):
    path = tmp_path / "kept.jsonl"
    path.write_text('{"id": "b", "kept": true}\n' + line)
    with pytest.raises(errors.InputError, match=f"kept.jsonl.*{complaint}"):
        filters.keep([], path)


def test_a_damaged_episode_is_named(tmp_path):
    episode = json.dumps(record("a", 1, 1.0)) + "\n"
    path = tmp_path / "step_000001.jsonl"
    path.write_text(episode + "{}\n" + episode)
    with pytest.raises(errors.InputError, match="step_000001.jsonl, line 2: keys"):
        list(filters._episodes(tmp_path))
