"""Which problems a stage gets: generated splits, files, and what is held out."""

import json

import pytest

from aster_jax import config, pools, settings
from aster_jax.errors import InputError
from aster_jax.lifetime import changes


def generated():
    c = config.default()
    c.problems.families = ("prod", "mod")
    return c


def drawn(c, split, count):
    left = changes.left_out(c)
    if split == "train":
        return pools.train(c, left)[:count]
    if split == "heldout":
        return pools.heldout(c)[:count]
    return pools.demos(c, count) if split == "demos" else pools.validation(c, left, count)


def questions(c, split, count):
    return {p.question for p in drawn(c, split, count)}


def test_generated_splits_share_no_question():
    c = generated()
    by_split = {s: questions(c, s, 60) for s in ("demos", "train", "validation", "heldout")}
    assert all(len(q) == 60 for q in by_split.values())
    assert len(set.union(*by_split.values())) == 240


def test_more_problems_begin_with_the_same_ones():
    c = generated()
    assert pools.demos(c, 20)[:8] == pools.demos(c, 8) == pools.demos(c, 8)


def write(path, numbers):
    lines = [json.dumps({"question": f"What is {n} plus 1?", "answer": str(n + 1)}) for n in numbers]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_files_never_train_on_what_is_held_out(tmp_path):
    c = config.default()
    c.problems.source = write(tmp_path / "train.jsonl", range(10, 30))
    c.problems.heldout = write(tmp_path / "held.jsonl", range(25, 40))
    left = changes.left_out(c)
    assert [p.answer for p in pools.train(c, left)] == [str(n + 1) for n in range(10, 25)]
    with pytest.raises(InputError, match="demos.source='expert' solves generated problems"):
        pools.demos(c, 2)
    c.problems.num_heldout = 4
    assert [p.answer for p in pools.heldout(c)] == ["26", "27", "28", "29"]
    assert any("4 of 15 problems of" in text for text in pools.check(c, c.stages))
    c.problems.num_heldout = 0
    assert len(pools.heldout(c)) == 15
    assert pools.check(c, c.stages) == ["15 training problems: fewer than rl.prompts=16"]
    c.rl.prompts = 15
    assert pools.check(c, c.stages) == []
    with pytest.raises(InputError, match="num_heldout=0"):
        pools.heldout(c, "generated")


def test_every_held_out_file_is_left_out_of_training(tmp_path):
    c = config.default()
    c.problems.source = write(tmp_path / "train.jsonl", range(10, 30))
    c.eval.also = ({"name": "more", "heldout": write(tmp_path / "more.jsonl", range(10, 13))},)
    assert [p.answer for p in pools.train(c, changes.left_out(c))][0] == "14"
    # A file that is named later does not change what a stage under way trains on; it is told.
    assert [p.answer for p in pools.train(c, changes.LeftOut())][0] == "11"
    found = pools.heldout(c, c.eval.also[0]["heldout"])
    assert pools.trained_on(c, found, changes.LeftOut()) == 3
    assert pools.trained_on(c, found, changes.left_out(c)) == 0


def test_validation_problems_of_a_file_are_a_split_of_their_own(tmp_path):
    c = config.default()
    c.problems.source = write(tmp_path / "train.jsonl", range(10, 60))
    c.problems.num_validation = 8
    assert len(pools.train(c, changes.left_out(c))) == 50  # nothing is set apart that nobody measures on
    c.rl.eval_every = 5
    left = changes.left_out(c)
    apart = {p.id for p in pools.validation(c, left, 99)}
    rest = {p.id for p in pools.train(c, left)}
    assert len(apart) == 8 and len(rest) == 42 and not apart & rest
    # Which ones, a hash of the id decides, not the order of the file.
    c.problems.source = write(tmp_path / "other" / "train.jsonl", reversed(range(10, 60)))
    assert {p.id for p in pools.validation(c, left, 99)} == apart
    assert len(pools.validation(c, left, 3)) == 3
    c.problems.num_validation = 0
    with pytest.raises(InputError, match="num_validation"):
        pools.validation(c, left, 3)


@pytest.mark.parametrize("key, stage", [("rl.eval_every", "rl1"), ("rl2.eval_every", "rl2"),
                                        ("sft.probe_every", "sft")])  # fmt: skip
def test_nothing_to_measure_on_is_said_before_the_first_stage(tmp_path, key, stage):
    c = config.default()
    c.problems.source = write(tmp_path / "train.jsonl", range(10, 60))
    c.problems.num_validation = 0
    pools.check(c, c.stages)
    section, _, name = key.partition(".")
    c[section][name] = 5
    with pytest.raises(InputError, match="there are no validation problems"):
        pools.check(c, c.stages)
    # Another one does not ask for them, nor one that is over.
    pools.check(c, set(c.stages) - {stage, *({"rl2"} if key == "rl.eval_every" else ())})


def test_generated_problems_without_a_number_are_refused_in_any_evaluation(tmp_path):
    c = config.default()
    c.problems.heldout = write(tmp_path / "held.jsonl", range(25, 40))
    c.problems.num_heldout = 0
    pools.check(c, c.stages)
    c.eval.also = ({"name": "more", "heldout": "generated"},)
    with pytest.raises(InputError, match="problems.num_heldout=0 takes all of a file"):
        pools.check(c, c.stages)


def test_a_repeated_question_is_used_once_and_said(tmp_path):
    c = config.default()
    c.rl.prompts = 2
    c.problems.source = write(tmp_path / "train.jsonl", (1, 2, 1, 3, 1))
    c.problems.heldout = write(tmp_path / "held.jsonl", (7, 8, 8))
    assert [p.answer for p in drawn(c, "train", 9)] == ["2", "3", "4"]
    assert [p.answer for p in drawn(c, "heldout", 9)] == ["8", "9"]
    assert pools.check(c, c.stages) == [
        f"repeated questions left out of {c.problems.source}: 2",
        f"repeated questions left out of {c.problems.heldout}: 1",
    ]
    c.problems.source = write(tmp_path / "once.jsonl", (1, 2))
    c.problems.heldout = "generated"
    assert pools.check(c, c.stages) == []


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
        drawn(c, "train", 1)


def test_the_tool_gets_the_runs_limits():
    c = config.default()
    made = settings.tool(c)
    for name in c.tools:
        assert getattr(made, name) == c.tools[name]
    # The episode's budget counts calls; the tool's own limit must never be the first.
    assert made.max_calls > 1000


def test_files_of_later_stages_are_read_at_once(tmp_path):
    c = generated()
    pools.check(c, c.stages)
    c.problems.heldout = str(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match="absent.jsonl does not exist"):
        pools.check(c, c.stages)
