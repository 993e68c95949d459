"""From a run to its model: vocabulary, sizes, and the parameters a stage ended with."""

import re

import jax
import numpy as np
import pytest

from aster_jax import config, policy, workdir
from aster_jax import settings as made_of
from aster_jax.data import chat
from aster_jax.train import checkpoint, memory, optim, retention, step
from tests.rollout import chatter


def settings():
    c = config.default()
    c.name = "t"
    c.model.d_model, c.model.d_ff = 32, 48
    return c


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_device):
    """A run whose demonstrations stage has learned a vocabulary."""
    made = workdir.open_run(settings(), tmp_path_factory.mktemp("run"), one_device)
    chatter.build(made.directory("demos") / "tokenizer")
    made.finish("demos", {})
    return made


@pytest.fixture(scope="module")
def described(run):
    return policy.describe(run)


def test_a_scratch_model_has_the_learned_vocabulary(described):
    words = described.tokenizer
    assert described.cfg.vocab_size >= words.vocab_size
    assert (described.cfg.d_model, described.cfg.d_ff) == (32, 48)
    assert described.stop_ids == (words.control["<|im_end|>"],)


def test_the_prompt_shows_the_tool_only_if_asked(run, described):
    ids = described.prompt_ids("What is 1+1?")
    text = described.tokenizer.decode(ids)
    assert "code_interpreter" in text and text.endswith("<|im_start|>assistant\n")
    hidden = settings()
    hidden.model.show_tool = False
    plain = policy.describe(workdir.Run(hidden, run.path, run.mesh)).prompt_ids("What is 1+1?")
    expected = chat.prompt_ids("What is 1+1?", None, described.tokenizer, "chatml")
    assert list(plain) == expected and len(plain) < len(ids)


def test_without_demonstrations_it_says_what_to_run(tmp_path, one_device):
    new = workdir.open_run(settings(), tmp_path, one_device)
    with pytest.raises(ValueError, match="stage 'demos' has not finished"):
        policy.describe(new)


def test_an_unfinished_stage_has_no_parameters(run, described):
    with pytest.raises(ValueError, match="stage 'sft' has not finished"):
        policy.trained_params(run, described, "sft")


def test_base_parameters_depend_on_the_seed(run, described):
    one, same = (policy.trained_params(run, described, "base") for _ in range(2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    other = settings()
    other.seed = 1
    changed = policy.base_params(workdir.Run(other, run.path, run.mesh), described)
    assert np.abs(np.asarray(one["embed"]["w"] - changed["embed"]["w"])).max() > 0.01


def test_trained_parameters_are_those_of_the_last_step(run, described):
    tx = optim.build(made_of.optimiser(run.config.rl))
    state = step.fresh_state(policy.base_params(run, described), tx, run.mesh)
    with checkpoint.Checkpoints(run.directory("rl1") / "checkpoints", retention.Keep()) as saved:
        for number in (1, 2):
            params = jax.tree.map(lambda x: x + 1, state.params)
            state = state.replace(params=params)
            saved.save(number, state, {"step": number})
    run.finish("rl1", {"step": 2})
    for a, b in zip(
        jax.tree.leaves(policy.trained_params(run, described, "rl1")),
        jax.tree.leaves(state.params),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_stage_hands_on_its_last_or_its_best_step(run, described):
    """Of rl1 above, with the first step as the best one."""
    run.finish("rl1", {"step": 2, "best": 1})
    best = settings()
    best.rl1.hand_on = "best"
    best_run = workdir.Run(best, run.path, run.mesh)
    assert (policy.handed_on(run, "rl1"), policy.handed_on(best_run, "rl1")) == (2, 1)
    last, first = (policy.trained_params(r, described, "rl1") for r in (run, best_run))
    np.testing.assert_array_equal(last["embed"]["w"], first["embed"]["w"] + 1)


@pytest.mark.parametrize(
    "stages, begun, expected",
    [
        (("demos", "sft", "rl1", "rl2"), (), {"sft": "base", "rl1": "sft", "rl2": "rl1"}),
        (("rl1", "rl2"), (), {"rl1": "base", "rl2": "rl1"}),
        (("rl2",), (), {"rl2": "base"}),
        (("rl1",), ("sft",), {"rl1": "sft"}),  # of an earlier command in this workdir
        (("sft", "rl2"), (), {"rl2": "sft"}),
    ],
)
def test_a_stage_starts_from_the_nearest_one_of_this_run(
    tmp_path, one_device, stages, begun, expected
):
    c = settings()
    c.stages = stages
    made = workdir.open_run(c, tmp_path, one_device)
    for stage in begun:
        made.begin(stage)
    assert {stage: policy.starts_from(made, stage) for stage in expected} == expected


def test_sft_by_epochs_is_counted_on_the_disk(tmp_path, one_device, capsys):
    c = settings()
    c.stages, c.sft.steps, c.sft.epochs, c.sft.keep_every = ("demos", "sft"), 0, 2.0, 1
    policy.say_disk(workdir.open_run(c, tmp_path, one_device))
    by_epochs = capsys.readouterr().out
    c.sft.steps, c.sft.epochs, c.sft.keep_every = 16, 0.0, 0
    policy.say_disk(workdir.Run(c, tmp_path, one_device))
    known = re.search("checkpoints (.*) of episodes", capsys.readouterr().out)
    assert "(sft " in known[1] and known[1] in by_epochs


def test_a_model_larger_than_the_memory_is_refused_before_it_is_made(run, described):
    huge = settings()
    huge.rollout.pool_tokens = 1 << 40
    with pytest.raises(ValueError, match="GiB.* to train with"):
        policy.check(workdir.Run(huge, run.path, run.mesh))


def test_what_trains_nothing_needs_no_memory_for_training(run, described, monkeypatch):
    """Moments and gradients are counted for the stages that are left, and for no others."""
    cfg, c = policy.expected_config(run), run.config
    sampled = (c.rollout.pool_tokens, c.rollout.dtype)
    needed = memory.needed_bytes(cfg, run.mesh, *sampled)
    assert needed["training"] == 0
    monkeypatch.setattr(memory, "available_bytes", lambda: (needed["rollout"], "this one"))
    with pytest.raises(ValueError, match="to train with"):
        policy.check(run)
    only = settings()
    only.stages = ("eval", "report")
    policy.check(workdir.Run(only, run.path, run.mesh))
    monkeypatch.setattr(memory, "available_bytes", lambda: (needed["rollout"] - 1, "this one"))
    with pytest.raises(ValueError, match=r"per device \([0-9.]+ to roll out"):
        policy.check(workdir.Run(only, run.path, run.mesh))


def test_the_optimiser_is_the_sections():
    c = settings()
    assert made_of.optimiser(c.rl).learning_rate == c.rl.learning_rate
    assert made_of.optimiser(c.sft).weight_decay == c.sft.weight_decay
