"""What `validate` refuses, and with which words."""

import pytest

from aster_jax import config, config_check
from aster_jax.errors import InputError


def named():
    c = config.default()
    c.name = "t"
    return c


def test_the_defaults_are_valid():
    config_check.validate(named())


@pytest.mark.parametrize(
    "key, value, text",
    [
        ("name", "", "name is empty"),
        *(("seed", seed, f"seed={seed!r} must be a whole number from 0 to 2147483647")
          for seed in (-1, 2**31, True)),
        ("stages", ("demos", "train"), r"stages has \['train'\]; known stages are demos, sft"),
        ("stages", ("sft", "demos"), "must keep the order demos, sft"),
        ("rl.normalise", "token", "rl.normalise='token'; choose one of"),
        ("rl.on_token_budget", "cut", "rl1: on_token_budget='cut'; choose one of keep, mask, soft, drop"),
        ("rl2.on_deadline", "soft", "rl2: on_deadline='soft'; choose one of keep, mask, drop"),
        ("rl.loss", "ppo", "rl1: loss='ppo'; choose one of"),
        ("rl.updates", 0, "rl.updates=0 must be at least 1"),
        ("rl.token_mask", 0.5, "rl1: token_mask=0.5 must be 0"),
        ("rl.overlong_share", 2.0, "rl.overlong_share=2.0 is a share"),
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
        # What only its own stage would have stumbled over.
        ("model.param_dtype", "bfloat16", "model.param_dtype='bfloat16': .*train with float32"),
        ("model.compute_dtype", "float8", "model.compute_dtype='float8'; choose one of"),
        ("rollout.dtype", "foo", "rollout.dtype='foo'"),
        ("eval.top_p", 1.5, "eval: .*top_p=1.5"),
        ("eval.top_p", 0.0, "eval: .*top_p=0.0"),
        ("eval.temperature", -1.0, "eval.temperature=-1.0 must not be negative"),
        ("eval.temperature", float("nan"), "eval.temperature=nan"),
        ("rl1.learning_rate", -1e-6, "rl1.learning_rate=-1e-06"),
        ("rl.learning_rate", float("inf"), "learning_rate=inf"),
        ("sft.beta2", 1.0, "sft: beta2=1.0 must be in"),
        ("rl2.beta1", -0.1, "rl2.beta1=-0.1"),
        ("rl.clip_norm", 0.0, "rl1: clip_norm=0.0 must be above 0"),
        ("rl.dual_clip", 0.5, "rl1: dual_clip=0.5 must be at least 1"),
        ("rl2.clip_low", 2.0, "rl2: clip_low=2.0"),
        ("rl.tis_cap", float("nan"), "tis_cap=nan"),
        ("rl.group", 1, "rl.group=1: a trajectory is compared"),
        ("rl1.steps", -3, "rl1.steps=-3 must not be negative"),
        ("rollout.deadline_s", -1.0, "rollout.deadline_s=-1.0"),
        ("tools.wall_limit_s", 0.0, "tools.wall_limit_s=0.0 is outside"),
        ("tools.min_tier", "Z", "tools.min_tier='Z' is not one of"),
        ("rl.min_group", 1.5, "rl.min_group=1.5 is a share"),
        ("rl.hand_on", "first", "rl.hand_on='first'; choose one of"),
        ("rollout.prefill_buckets", (), "prefill_buckets="),
        ("mesh.fsdp", 0, "mesh.fsdp=0 must be at least 1"),
        ("mesh.context", 0, "mesh.context=0 must be at least 1"),
        ("mesh.context", 3, "sft.row_tokens=512 must be a multiple of 6: each of mesh.context=3"),
        ("eval.also", ({"temperature": 0.6},), "eval.also.0.*a dict with a 'name'"),
        ("eval.also", ({"name": "main"},), "names are letters.*each once"),
        ("eval.also", ({"name": "../x"},), "names are letters"),
        ("eval.also", ({"name": "x", "temprature": 1.0},), "'x' has .'temprature'.; known keys"),
        ("eval.also", ({"name": "x", "temperature": "hot"},), "eval.also 'x'"),
        ("eval.also", ({"name": "x", "top_p": 2.0},), "eval.also 'x': .*top_p=2.0"),
        ("eval.also", ({"name": "x", "samples": 0},), "eval.also 'x' has samples=0; .* at least 1"),
        ("eval.also", ({"name": "x", "samples": -2},), "samples=-2"),
        ("eval.also", ({"name": "x", "max_calls": -1},), "max_calls=-1; it must be at least 0"),
        ("eval.also", ({"name": "x", "samples": None},), "samples=None"),
        ("eval.also", ({"name": "x", "turn_tokens": None},), "turn_tokens=None"),
        ("sft.stop_accuracy", 0.8, "never stops anything with sft.probe_every=0"),
        ("rl1.hand_on", "best", "rl1.hand_on=best needs measurements.*rl1?.eval_every=0"),
        ("eval.also", ({"name": "x", "context_tokens": 999},), "'x'.context_tokens=999 exceeds"),
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
        config_check.validate(c)


def test_nothing_is_none_that_has_to_be_something():
    for key in config.keys(config.default()):
        c = named()
        *sections, last = key.split(".")
        section = c
        for name in sections:
            section = section[name]
        if section[last] is None:  # of rl1 and rl2, where it stands for the value of rl
            continue
        section[last] = None
        with pytest.raises(InputError, match=f"{key}=None is no value"):
            config_check.validate(c)
    c = named()
    c.rl1 = None
    with pytest.raises(InputError, match=r"rl1\.\w+=None is no value"):
        config_check.validate(c)


def test_a_decay_must_be_longer_than_its_warm_up():
    c = named()
    c.rl2.warmup_steps, c.rl2.decay_steps = 5, 3
    with pytest.raises(ValueError, match="rl2: decay_steps=3 .*must exceed warmup_steps=5"):
        config_check.validate(c)


def test_bfloat16_parameters_are_for_what_does_not_train():
    c = named()
    c.stages, c.model.param_dtype = ("eval", "report"), "bfloat16"
    config_check.validate(c)


def test_sampling_is_free_where_nothing_is_trained_on_it():
    c = named()
    c.stages, c.rollout.temperature, c.rollout.top_p = ("demos", "sft", "eval"), 0.0, 0.9
    config_check.validate(c)


def test_rows_are_cut_only_where_they_are_trained_on():
    c = named()
    c.mesh.context, c.rl2.row_tokens, c.rl2.context_tokens = 4, 516, 512
    with pytest.raises(ValueError, match="rl2.row_tokens=516 must be a multiple of 8"):
        config_check.validate(c)
    c.stages = ("sft", "rl1", "eval")
    config_check.validate(c)


def test_a_soft_budget_needs_a_share_to_act_on():
    c = named()
    c.rl.overlong_share = 0.0
    config_check.validate(c)
    c.rl2.on_turn_budget = "soft"
    with pytest.raises(ValueError, match="rl.overlong_share=0 leaves a budget that is soft"):
        config_check.validate(c)
