"""The config: what validate refuses, which key an unknown one was meant to be."""

import importlib.util
import pathlib

import pytest

from aster_jax import config

EXPERIMENTS = sorted((pathlib.Path(__file__).parents[1] / "experiments").glob("[a-z]*.py"))


def named():
    c = config.default()
    c.name = "t"
    return c


def test_the_defaults_are_valid():
    config.validate(named())


@pytest.mark.parametrize(
    "key, value, text",
    [
        ("name", "", "name is empty"),
        ("stages", ("demos", "train"), r"stages has \['train'\]; known stages are demos, sft"),
        ("stages", ("sft", "demos"), "must keep the order demos, sft"),
        ("rl.normalise", "token", "rl.normalise='token'; choose one of"),
        ("rl.truncated", "drop", "rl.truncated='drop'"),
        ("demos.style", "long", "demos.style='long'"),
        ("model.accum_dtype", "bfloat16", "model.accum_dtype='bfloat16'; choose one of"),
        ("eval.checkpoints", ("base", "rl3"), r"eval.checkpoints has \['rl3'\]; known are base"),
        ("rl.minibatches", 0, "rl.minibatches=0 must be at least 1"),
        ("sft.micro_rows", 0, "sft.micro_rows=0 must be at least 1"),
        ("rollout.page_tokens", 0, "rollout.page_tokens=0 must be at least 1"),
        ("rl2.response_tokens", 0, "rl2.response_tokens=0 must be at least 1"),
        ("rollout.temperature", 0.0, "rollout.temperature=0.0: greedy members"),
        ("rollout.top_p", 0.9, "rollout.top_p=0.9.*train with top_p=1"),
        ("rollout.top_k", 5, "rollout.top_k=5"),
        ("rl1.context_tokens", 513, "rl1.context_tokens=513 exceeds rollout.capacity=512"),
        ("eval.context_tokens", 513, "eval.context_tokens=513 exceeds rollout.capacity=512"),
        ("rl.row_tokens", 511, "rl1.context_tokens=512 exceeds rl.row_tokens=511"),
        ("rl.minibatches", 3, "rl.prompts=16 must be a multiple of rl.minibatches=3"),
        ("sft.micro_rows", 7, "sft.rows=32 must be a multiple of sft.micro_rows=7"),
    ],
)
def test_what_cannot_work_is_refused(key, value, text):
    c = named()
    *sections, last = key.split(".")
    section = c
    for name in sections:
        section = section[name]
    section[last] = value
    with pytest.raises(ValueError, match=text):
        config.validate(c)


def test_sampling_is_free_where_nothing_is_trained_on_it():
    c = named()
    c.stages, c.rollout.temperature, c.rollout.top_p = ("demos", "sft", "eval"), 0.0, 0.9
    config.validate(c)


@pytest.mark.parametrize(
    "unknown, meant",
    [
        ("sft.stpes", "sft.steps"),
        ("learning_rate", "sft.learning_rate"),
        ("rl.lerning_rate", "rl.learning_rate"),
        ("rollout.slot", "rollout.slots"),
        ("sed", "seed"),
        ("model.dmodel", "model.d_model"),
        ("zzzzqqqq", ""),
    ],
)
def test_the_nearest_key(unknown, meant):
    found = config.nearest(unknown, config.default())
    assert found == meant or (found and found.split(".")[-1] == meant.split(".")[-1])


def test_keys_are_all_leaves():
    keys = config.keys(config.default())
    assert len(keys) == len(set(keys))
    assert {"seed", "sft.steps", "rl1.max_calls", "tools.min_tier", "eval.no_tool"} <= set(keys)
    assert "sft" not in keys


def test_a_locked_config_takes_no_new_key():
    c = named().lock()
    with pytest.raises(AttributeError, match="steps"):
        c.sft.stepz = 3


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_experiments_assign_known_keys_to_values_that_work(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    c = module.get_config()
    config.validate(c)
    assert c.name == path.stem
    assert set(config.keys(c)) == set(config.keys(config.default()))
