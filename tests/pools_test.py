"""Which problems a stage gets: generated splits, files, and what is held out."""

import json

import pytest

from aster_jax import config, pools


def generated():
    c = config.default()
    c.problems.families = ("prod", "mod")
    return c


def questions(c, split, count):
    return {p.question for p in pools.select(c, split, count)}


def test_generated_splits_share_no_question():
    c = generated()
    by_split = {s: questions(c, s, 60) for s in ("demos", "train", "probe", "heldout")}
    assert all(len(q) == 60 for q in by_split.values())
    assert len(set.union(*by_split.values())) == 240


def test_more_problems_begin_with_the_same_ones():
    c = generated()
    assert pools.select(c, "train", 20)[:8] == pools.select(c, "train", 8)
    assert pools.select(c, "train", 8) == pools.select(c, "train", 8)


def write(path, numbers):
    lines = [json.dumps({"question": f"What is {n} plus 1?", "answer": str(n + 1)}) for n in numbers]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_files_never_train_on_what_is_held_out(tmp_path):
    c = config.default()
    c.problems.source = write(tmp_path / "train.jsonl", range(10, 30))
    c.problems.heldout = write(tmp_path / "held.jsonl", range(25, 40))
    train = pools.select(c, "train", 5)
    assert [p.answer for p in train] == [str(n + 1) for n in range(10, 25)]
    held = pools.select(c, "heldout", 4)
    assert [p.answer for p in held] == ["26", "27", "28", "29"]
    assert len(pools.select(c, "heldout", 999)) == 15
    assert len(pools.select(c, "probe", 3)) == 3


def test_a_repeated_question_is_used_once_and_said(tmp_path):
    c = config.default()
    c.rl.prompts = 2
    c.problems.source = write(tmp_path / "train.jsonl", (1, 2, 1, 3, 1))
    c.problems.heldout = write(tmp_path / "held.jsonl", (7, 8, 8))
    assert [p.answer for p in pools.select(c, "train", 9)] == ["2", "3", "4"]
    assert [p.answer for p in pools.select(c, "heldout", 9)] == ["8", "9"]
    assert pools.check(c) == [
        f"repeated questions left out of {c.problems.source}: 2",
        f"repeated questions left out of {c.problems.heldout}: 1",
    ]
    c.problems.source = write(tmp_path / "once.jsonl", (1, 2))
    c.problems.heldout = "generated"
    assert pools.check(c) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no problems"),
        ('{"question": "What?"}\n', "train.jsonl"),
        ('{"question": "What?", "answer": ""}\n', "train.jsonl"),
        ("{broken\n", "train.jsonl"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, text, message):
    path = tmp_path / "train.jsonl"
    path.write_text(text)
    c = config.default()
    c.problems.source = str(path)
    with pytest.raises(ValueError, match=message):
        pools.select(c, "train", 1)


def test_the_tool_gets_the_runs_limits():
    c = config.default()
    made = pools.tool_config(c)
    for name in c.tools:
        assert getattr(made, name) == c.tools[name]
    # The episode's budget counts calls; the tool's own limit must never be the first.
    assert made.max_calls > 1000


def test_files_of_later_stages_are_read_at_once(tmp_path):
    c = generated()
    pools.check(c)
    c.problems.heldout = str(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match="absent.jsonl does not exist"):
        pools.check(c)
