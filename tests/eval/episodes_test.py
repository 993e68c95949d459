"""What stays of an arm over kills, repetitions and extensions."""

import json

import hypothesis
import hypothesis.strategies as st
import pytest

from aster_jax import types
from aster_jax.errors import InputError
from aster_jax.eval import episodes
from aster_jax.rollout import journal, live

NO_LIMITS = [0.0, 0.0]
LOST, CUT, WRONG, RIGHT, UNJUDGED = "lost", "cut", "wrong", "right", "unjudged"
ENDS = {LOST: "infrastructure", CUT: "deadline"}
VERDICTS = {RIGHT: "exact", UNJUDGED: "verifier_error"}


def record(problem, sample=0, kind=WRONG, limits_s=NO_LIMITS, **more):
    return {
        "problem_id": problem,
        "sample": sample,
        "end": ENDS[kind] if kind in ENDS else "answered",
        "verdict": VERDICTS[kind] if kind in VERDICTS else "wrong",
        "reward": float(kind == RIGHT),
        "limits_s": list(limits_s),
        **more,
    }


def requests(problems, samples=1):
    return [
        live.Request(types.Problem(p, "q", "1", "f"), s, (1,))
        for p in problems for s in range(samples)
    ]  # fmt: skip


def opened(tmp_path, limits_s=NO_LIMITS):
    return episodes.Episodes(tmp_path / "eval" / "arm.jsonl", limits_s)


def lines(tmp_path):
    return [json.loads(x) for x in (tmp_path / "eval" / "arm.jsonl").read_text().splitlines()]


def names(asked):
    return [r.problem.id for r in asked]


def test_a_new_arm_misses_everything(tmp_path):
    had, asked = opened(tmp_path), requests("ab", 2)
    assert had.missing(asked) == had.unfiled(asked) == asked
    assert (had.lost(asked), had.unjudged(asked), had.is_complete(asked)) == ([], [], False)
    assert not (tmp_path / "eval").exists()


def test_a_killed_phase_leaves_what_had_ended(tmp_path):
    asked = requests("abc")
    part = opened(tmp_path).new_part()
    for problem in "ca":
        part.add(record(problem))
    [path] = (tmp_path / "eval" / "arm.parts").iterdir()
    with open(path, "ab") as f:
        f.write(b'{"problem_id": "b", "sam')
    had = opened(tmp_path)
    assert names(had.missing(asked)) == ["b"]
    assert names(had.unfiled(asked)) == ["a", "b", "c"]  # chunks stay what they were
    had.add(had.new_part(), [record("b", kind=RIGHT)])
    assert had.is_complete(asked)
    assert [r["problem_id"] for r in had.seal(asked)] == ["a", "b", "c"]
    assert [r["problem_id"] for r in lines(tmp_path)] == ["a", "b", "c"]
    assert not (tmp_path / "eval" / "arm.parts").exists()


@pytest.mark.parametrize("damaged", [b'{"problem_id": "b", "sam\n', b"\xff\n", b"7\n", b"\n"])
def test_a_damaged_line_of_a_finished_arm_is_named(tmp_path, damaged):
    had, asked = opened(tmp_path), requests("abc")
    had.add(had.new_part(), [record(p) for p in "abc"])
    had.seal(asked)
    path = tmp_path / "eval" / "arm.jsonl"
    first, _, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damaged + third)
    with pytest.raises(InputError, match="arm.jsonl, line 2: no episode.*remove the line"):
        opened(tmp_path)
    path.write_bytes(first + third)
    assert names(opened(tmp_path).missing(asked)) == ["b"]


def test_a_kill_while_the_file_is_written_loses_and_doubles_nothing(tmp_path):
    had, asked = opened(tmp_path), requests("ab")
    had.add(had.new_part(), [record("a"), record("b", kind=LOST)])
    # The file is there, and so are the parts that it was made of.
    journal.Journal(tmp_path / "eval" / "arm.jsonl").seal([record("a"), record("b", kind=RIGHT)])
    had = opened(tmp_path)
    assert had.is_complete(asked)
    assert [r["reward"] for r in had.seal(asked)] == [0.0, 1.0]
    assert len(lines(tmp_path)) == 2 and not (tmp_path / "eval" / "arm.parts").exists()


@pytest.mark.parametrize(
    ("earlier", "later", "stays"),
    [
        (LOST, WRONG, WRONG), (LOST, LOST, LOST), (LOST, CUT, CUT), (CUT, LOST, CUT),
        (CUT, WRONG, WRONG), (WRONG, LOST, WRONG), (WRONG, CUT, WRONG), (WRONG, RIGHT, RIGHT),
        (UNJUDGED, RIGHT, RIGHT), (RIGHT, UNJUDGED, RIGHT),
    ],
)  # fmt: skip
def test_a_later_episode_supersedes_one_that_knows_no_more(tmp_path, earlier, later, stays):
    had = opened(tmp_path)
    for number, kind in enumerate((earlier, later)):
        had.add(had.new_part(), [record("a", kind=kind, number=number)])
    [kept] = had.seal(requests("a"))
    expected = record("a", kind=stays)
    assert {k: v for k, v in kept.items() if k != "number"} == expected
    if earlier == later:
        assert kept["number"] == 1


def test_what_the_tool_lost_and_what_the_verifier_lost_are_told_apart(tmp_path):
    had, asked = opened(tmp_path), requests("abcd")
    kinds = dict(zip("abcd", (LOST, UNJUDGED, CUT, RIGHT)))
    had.add(had.new_part(), [record(p, kind=k) for p, k in kinds.items()])
    assert names(had.lost(asked)) == ["a"]
    assert [r["problem_id"] for r in had.unjudged(asked)] == ["b"]
    assert had.missing(asked) == [] and not had.is_complete(asked)
    assert had.is_complete(asked[2:])


def test_what_was_cut_is_asked_again_when_there_is_more_time(tmp_path):
    had, asked = opened(tmp_path, [5.0, 60.0]), requests("ab")
    had.add(had.new_part(), [record("a", kind=CUT, limits_s=[5.0, 60.0]), record("b")])
    assert had.is_complete(asked)
    had.seal(asked)
    for limits_s, missing in (
        ([5.0, 60.0], []), ([4.0, 60.0], []), ([6.0, 60.0], ["a"]), ([5.0, 0.0], ["a"]),
        ([0.0, 0.0], ["a"]),
    ):  # fmt: skip
        had = opened(tmp_path, limits_s)
        assert names(had.missing(asked)) == names(had.unfiled(asked)) == missing, limits_s
        assert had.is_complete(asked) == (not missing)


def test_more_samples_extend_and_fewer_take_the_first(tmp_path):
    had, two, three = opened(tmp_path), requests("ab", 2), requests("ab", 3)
    had.add(had.new_part(), [record(p, s) for p in "ba" for s in (1, 0)])
    had.seal(two)
    had = opened(tmp_path)
    assert [(r.problem.id, r.sample) for r in had.unfiled(three)] == [("a", 2), ("b", 2)]
    had.add(had.new_part(), [record("a", 2), record("b", 2)])
    assert [(r["problem_id"], r["sample"]) for r in had.seal(three)] == [
        (p, s) for p in "ab" for s in range(3)
    ]
    had = opened(tmp_path)
    first = had.seal(requests("a", 1))
    assert [(r["problem_id"], r["sample"]) for r in first] == [("a", 0)]
    assert len(lines(tmp_path)) == 6
    # Problems that are asked for come first, and nothing is thrown away.
    opened(tmp_path).seal(requests("b", 2))
    assert [(r["problem_id"], r["sample"]) for r in lines(tmp_path)] == [
        (p, s) for p in "ba" for s in range(3)
    ]


def test_nothing_new_writes_nothing(tmp_path):
    had, asked = opened(tmp_path), requests("ab")
    had.add(had.new_part(), [record("a"), record("b")])
    had.seal(asked)
    path = tmp_path / "eval" / "arm.jsonl"
    written = path.stat()
    opened(tmp_path).seal(asked)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (written.st_mtime_ns, written.st_ino)


def test_longer_limits():
    longer = [(2.0, 1.0), (0.0, 1.0)]
    assert all(episodes.is_longer(*pair) for pair in longer)
    assert not any(episodes.is_longer(*pair) for pair in [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0)])


def test_chunks():
    asked = requests("abcde")
    assert [names(c) for c in episodes.chunks(asked, 2)] == [["a", "b"], ["c", "d"], ["e"]]
    assert [names(c) for c in episodes.chunks(asked, 0)] == [["a", "b", "c", "d", "e"]]
    assert episodes.chunks([], 0) == episodes.chunks([], 3) == []


STEP = st.one_of(
    st.tuples(st.just("phase"), st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([LOST, CUT, WRONG, RIGHT])), max_size=3)),
    st.tuples(st.just("kill"), st.booleans()),
    st.tuples(st.just("seal"), st.sampled_from(["abc", "a", "cb"])),
)  # fmt: skip
WORTH = {LOST: 0, CUT: 1, WRONG: 2, RIGHT: 2}


@hypothesis.given(st.lists(STEP, max_size=8))
@hypothesis.settings(deadline=None, max_examples=60)
def test_whatever_happens_the_best_of_each_stays_once(tmp_path_factory, steps):
    """Phases, kills within one and writing of the file in any order, against a plain dict."""
    path = tmp_path_factory.mktemp("any")
    had, expected, part = opened(path), {}, None
    for what, detail in steps:
        if what == "phase":
            part = had.new_part()
            for problem, kind in detail:
                part.add(record(problem, kind=kind))
                if WORTH[kind] >= WORTH[expected[problem] if problem in expected else LOST]:
                    expected[problem] = kind
            had.add(part, [record(p, kind=k) for p, k in detail])
        elif what == "kill":
            had.new_part().add(record("d"))
            expected["d"] = WRONG
            had = opened(path)
        else:
            had.seal(requests(detail))
    had = opened(path)
    found = had.seal(requests("abcd"))
    assert {r["problem_id"]: r for r in found} == {
        p: record(p, kind=k) for p, k in expected.items()
    }
    assert len(found) == len(expected)
    assert not expected or len(lines(path)) == len(expected)
