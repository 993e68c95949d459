"""The config: what a stage takes from where, and that every experiment is a valid one."""

import importlib
import importlib.util
import pathlib

import pytest

from aster_jax import config, config_check
from aster_jax.studies import plan

EXPERIMENTS = sorted((pathlib.Path(__file__).parents[1] / "experiments").glob("[a-z]*.py"))


def named():
    c = config.default()
    c.name = "t"
    return c


def test_a_stage_has_every_key_of_rl_and_may_override_it():
    c = named()
    c.rl.learning_rate, c.rl2.learning_rate, c.rl2.group = 1e-4, 1e-5, 4
    one, two = config.rl_stage(c, "rl1"), config.rl_stage(c, "rl2")
    assert set(c.rl) <= set(c.rl1) and set(c.rl) < set(one)
    assert (one.learning_rate, two.learning_rate) == (1e-4, 1e-5)
    assert (one.group, two.group, two.prompts) == (8, 4, c.rl.prompts)
    assert two.max_calls == c.rl2.max_calls
    with pytest.raises(TypeError):
        c.rl1.group = "many"


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
    config_check.validate(c)
    assert c.name == path.stem
    assert set(config.keys(c)) == set(config.keys(config.default()))


@pytest.mark.parametrize("size", ["", "small", "night", "smoke"])
@pytest.mark.parametrize("name", ["cold_start", "density", "budget"])
def test_every_member_of_a_study_can_run(name, size):
    c = importlib.import_module(f"experiments.studies.{name}").get_config(size)
    assert c.name == (f"{name}-{size}" if size else name)
    for member in [*plan.bases(c), *plan.members(c)]:
        plan.config_of(c, member)
    assert len(plan.members(c)) == len(c.study.seeds) * (len(c.study.variants) - len(c.study.base))
