"""Which arms there are, what makes one another one, and what each is asked."""

import hashlib
import itertools
import json

import pytest

from aster_jax import config, policy, workdir
from aster_jax.data import chat
from aster_jax.errors import InputError
from aster_jax.eval import arms
from tests.rollout import chatter


def made(tmp_path, one_device, **changes):
    """A run whose sft stage has ended, and whose config has these keys, by dotted name."""
    c = config.default()
    c.name, c.stages, c.eval.checkpoints = "t", ("eval", "report"), ("base", "sft", "rl1")
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if name:
            c[section][name] = value
        else:
            c[key] = value
    run = workdir.Run(c, tmp_path, one_device)
    run.finish("sft", {"step": 7})
    return run


def test_checkpoints_that_are_there_in_every_arm(tmp_path, one_device):
    found = arms.wanted(made(tmp_path, one_device))
    assert [(a.checkpoint, a.step, a.name) for a in found] == [
        (*which, name)
        for which, name in itertools.product((("base", 0), ("sft", 7)), arms.NAMES)
    ]
    assert [a.max_calls for a in found[:3]] == [8, 0, 0]
    assert found[3].file.startswith("eval/sft_main_main_") and found[3].file.endswith(".jsonl")
    assert len({a.file for a in found}) == 6
    assert [a.phase for a in found[:2]] == ["eval/base/main", "eval/base/no_tool"]


def test_a_checkpoint_that_is_still_to_come_is_an_error_and_not_left_out(tmp_path, one_device):
    run = made(tmp_path, one_device, stages=("rl1", "eval"))
    with pytest.raises(InputError, match="stage 'rl1' has not finished"):
        arms.wanted(run)


def test_further_evaluations_have_files_of_their_own(tmp_path, one_device):
    also = ({"name": "cool", "temperature": 0.6, "think": False}, {"name": "same"})
    found = arms.wanted(made(tmp_path, one_device, **{"eval.also": also}))
    assert [(a.evaluation, a.name) for a in found if a.checkpoint == "sft"] == [
        *(("main", name) for name in arms.NAMES), ("cool", "main"), ("cool", "no_tool"),
        *(("same", name) for name in arms.NAMES),
    ]  # fmt: skip
    assert len({a.file for a in found}) == len(found)
    assert {a.phase for a in found if a.evaluation == "cool" and a.name == "main"} == {
        "eval/base/cool/main", "eval/sft/cool/main",
    }  # fmt: skip
    # Sampled alike, "main" and "same" share their programs, and a checkpoint is read once.
    groups = arms.by_players(found)
    assert [how.temperature for how, _ in groups] == [1.0, 0.6]
    assert [[a.checkpoint for a in g] for g in groups[0][1]] == [["base"] * 6, ["sft"] * 6]


@pytest.mark.parametrize(
    ("key", "value", "is_another"),
    [
        ("seed", 1, True),
        ("eval.temperature", 0.5, True),
        ("eval.top_p", 0.5, True),
        ("eval.turn_tokens", 32, True),
        ("eval.max_calls", 2, True),
        ("problems.digits", 3, True),
        ("model.show_tool", False, True),
        ("model.source", "elsewhere", True),
        ("tools.wall_limit_s", 1.0, True),
        ("rollout.tool_result_tokens", 9, True),
        ("model.remat", True, False),
        ("eval.samples", 9, False),
        ("problems.num_heldout", 9, False),
        ("eval.deadline_s", 9.0, False),
        ("eval.trajectory_s", 9.0, False),
        ("rollout.slots", 9, False),
        ("eval.also", ({"name": "cool"},), False),
    ],
)
def test_what_determines_an_episode_makes_another_arm(
    tmp_path, one_device, key, value, is_another
):
    before = arms.wanted(made(tmp_path, one_device))[0]
    after = arms.wanted(made(tmp_path, one_device, **{key: value}))[0]
    assert (before.file != after.file) == is_another


def test_a_problem_file_counts_by_what_it_holds(tmp_path, one_device):
    path = tmp_path / "held.jsonl"
    keys = {"problems.heldout": str(path)}
    files = []
    for text in ("a", "b", "a"):
        path.write_text(text)
        files.append(arms.wanted(made(tmp_path, one_device, **keys))[0].file)
    assert files[0] == files[2] != files[1]


def test_files_that_have_moved_are_the_same_ones(tmp_path, one_device):
    old = tmp_path / "old"
    (old / "weights").mkdir(parents=True)
    (old / "weights" / "config.json").write_text("{}")
    (old / "held.jsonl").write_text("a")

    def file(place, name="held"):
        keys = {"problems.heldout": f"{place}/{name}.jsonl", "model.source": f"{place}/weights"}
        return arms.wanted(made(tmp_path / "run", one_device, **keys))[0].file

    before = file(old)
    assert file(f"{old}/../old") == before
    new = old.rename(tmp_path / "new")
    assert file(new) == before
    # A problem's id begins with its file's name; other weights are another checkpoint.
    (new / "other.jsonl").write_text("a")
    assert file(new, "other") != before
    (new / "weights" / "config.json").write_text("{ }")
    assert file(new) != before


@pytest.mark.parametrize("suffix", [".jsonl", ".parts"])
def test_an_arm_that_is_named_after_a_path_goes_on_under_its_name(tmp_path, one_device, suffix):
    """As older versions named them."""
    path = tmp_path / "held.jsonl"
    path.write_text("a")
    run = made(tmp_path, one_device, **{"problems.heldout": str(path)})
    arm = arms.wanted(run)[0]
    asked = arms._asked(run.config, run.config.eval, str(path))
    asked["heldout"][0] = str(path)
    about = json.dumps([asked, "base", 0, "main"], sort_keys=True)
    older = f"base_main_main_{hashlib.sha256(about.encode()).hexdigest()[:8]}"
    assert arm.file != f"eval/{older}.jsonl"
    run.directory("eval")
    (run.path / "eval" / f"{older}{suffix}").touch()
    assert arms.wanted(run)[0].file == f"eval/{older}.jsonl"
    (run.path / arm.file).touch()
    assert arms.wanted(run)[0].file == arm.file


def test_a_checkpoint_counts_by_where_its_parameters_come_from(tmp_path, one_device):
    run = made(tmp_path, one_device)
    run.finish("rl1", {"step": 5, "best": 3})

    def fingerprints():
        return {a.checkpoint: a.fingerprint for a in arms.wanted(run) if a.name == "main"}

    before = fingerprints()
    assert len(set(before.values())) == 3
    run.finish("rl1", {"step": 6, "best": 3})
    assert fingerprints()["rl1"] != before["rl1"]
    assert fingerprints()["sft"] == before["sft"]
    run.finish("rl1", {"step": 0, "best": None})  # no steps: the parameters of sft
    assert fingerprints()["rl1"] == before["sft"]


def test_what_each_arm_is_given(tmp_path, one_device):
    talker = chatter.build(tmp_path / "words")
    speaks = policy.Policy(talker.cfg, talker.tokenizer, chatter.STYLE, (chat.TOOL,))
    bare = policy.Policy(talker.cfg, talker.tokenizer, chatter.STYLE, None)
    run = made(tmp_path, one_device, **{"eval.samples": 2})
    problem = chatter.problems(1)[0]
    main, forced, think = (a.requests(speaks, [problem]) for a in arms.wanted(run)[:3])
    assert [r.sample for r in main] == [0, 1]
    assert main[0].given == speaks.prompt_ids(problem.question) == forced[0].prompt
    assert think[0].given == bare.prompt_ids(problem.question) != main[0].given
    text = talker.tokenizer.decode(list(forced[0].opener))
    assert text.endswith(arms.FORCED_ANSWER) and forced[0].opener_text == arms.FORCED_ANSWER
    assert main[0].opener_text == think[0].opener_text == ""


def test_the_arms_time_runs_through_its_phases(tmp_path, one_device):
    run = made(tmp_path, one_device, **{"eval.deadline_s": 60.0})
    arm = arms.wanted(run)[1]
    limits = [arm.budgets(run.config, spent) for spent in (0.0, 45.0, 70.0)]
    assert [b.deadline_s for b in limits] == [60.0, 15.0, 0.0]
    assert limits[0].trajectory_s == float("inf") and limits[0].max_calls == 0
    assert arm.limits_s == [0.0, 60.0]


def test_a_finished_stage_covers_the_arms_asked_for_and_no_others(tmp_path, one_device):
    run = made(tmp_path, one_device)
    wanted = arms.wanted(run)
    done = json.loads(json.dumps({
        "arms": {a.file: arms.covered(run.config, a, True) for a in wanted}
    }))  # fmt: skip
    assert arms.are_covered(run.config, wanted, done)
    assert not arms.are_covered(run.config, wanted[1:], done)
    assert not arms.are_covered(run.config, wanted, {"checkpoints": ["base", "sft"]})
    for key, value in (
        ("eval.samples", 2), ("problems.num_heldout", 3), ("eval.deadline_s", 5.0),
        ("eval.temperature", 0.5), ("eval.think", False), ("eval.checkpoints", ("base",)),
    ):  # fmt: skip
        other = made(tmp_path, one_device, **{key: value})
        assert not arms.are_covered(other.config, arms.wanted(other), done), key
    done["arms"][wanted[0].file]["complete"] = False
    assert not arms.are_covered(run.config, wanted, done)


def test_pairs_are_within_an_evaluation_and_an_arm(tmp_path, one_device):
    run = made(tmp_path, one_device, **{"eval.also": ({"name": "cool", "think": False},)})
    run.finish("rl1", {"step": 1})
    found = [
        (a.checkpoint, b.checkpoint, a.evaluation, a.name)
        for a, b in arms.pairs(arms.wanted(run))
        if (a.evaluation, a.name) == (b.evaluation, b.name)
    ]
    order = [("base", "sft"), ("base", "rl1"), ("sft", "rl1")]
    named = [("main", n) for n in arms.NAMES] + [("cool", "main"), ("cool", "no_tool")]
    assert sorted(found) == sorted((*pair, *name) for pair in order for name in named)
    assert len(arms.pairs(arms.wanted(run))) == len(found)
