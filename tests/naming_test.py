"""Which key a wrong name was meant for: a table of what people write, and properties of all keys."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax import config, naming

KNOWN = config.keys(config.default())
some = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize(
    "unknown, meant",
    [
        # initials
        ("rl.lr", "rl.learning_rate"), ("sft.lr", "sft.learning_rate"),
        ("rl2.lr", "rl2.learning_rate"), ("lr", "rl.learning_rate"),
        ("optimizer.lr", "rl.learning_rate"), ("rl.wd", "rl.weight_decay"),
        # the beginning of a word, or a word of several
        ("rl.clip", "rl.clip_high"), ("rollout.temp", "rollout.temperature"),
        ("model.layers", "model.num_layers"), ("model.heads", "model.num_heads"),
        ("model.kv_heads", "model.num_kv_heads"), ("sft.warmup", "sft.warmup_steps"),
        ("problems.train", "problems.num_train"), ("tools.tier", "tools.min_tier"),
        ("tools.memory", "tools.memory_limit_mib"), ("sft.epoch", "sft.epochs"),
        ("eval.samples_per_problem", "eval.samples"), ("rl.group_size", "rl.group"),
        # a slip of the hand
        ("sft.stpes", "sft.steps"), ("rl.lerning_rate", "rl.learning_rate"),
        ("rollout.slot", "rollout.slots"), ("sed", "seed"), ("model.dmodel", "model.d_model"),
        ("rl.gruop", "rl.group"), ("rollout.topp", "rollout.top_p"), ("Rollout.Top-P", "rollout.top_p"),
        # another section
        ("rl.temperature", "rollout.temperature"), ("rl.steps", "rl1.steps"),
        ("train.num_layers", "model.num_layers"), ("learning_rate", "rl.learning_rate"),
        # another library
        ("rl.num_generations", "rl.group"), ("model.hidden_size", "model.d_model"),
        ("sft.batch_size", "sft.rows"), ("rl.batch_size", "rl.prompts"),
        ("rl.max_grad_norm", "rl.clip_norm"), ("eval.k", "eval.samples"),
        ("mesh.tp", "mesh.tensor"), ("rl.kl", "rl.kl_coef"), ("model.dtype", "model.compute_dtype"),
        # nothing
        ("zzzzqqqq", ""), ("rl.zzzz", ""), ("", ""), (".", ""),
    ],
)  # fmt: skip
def test_what_was_meant(unknown, meant):
    assert naming.nearest(unknown, KNOWN) == meant


@some
@given(st.sampled_from(KNOWN))
def test_a_key_is_nearest_to_itself(key):
    assert naming.nearest(key, KNOWN) == key


@some
@given(st.sampled_from([k for k in KNOWN if len(k.rpartition(".")[2]) >= 5]), st.data())
def test_two_letters_that_changed_places_are_seen_through(key, data):
    section, dot, name = key.rpartition(".")
    i = data.draw(st.integers(0, len(name) - 2))
    slip = name[:i] + name[i + 1] + name[i] + name[i + 2 :]
    found = naming.nearest(section + dot + slip, KNOWN)
    assert found.rpartition(".")[0] == section
    # `rl.keep_evrey` may be taken for its neighbour, but never for something unlike it.
    assert naming._like_name(name, found.rpartition(".")[2]) > 0.4


@some
@given(st.sampled_from([k for k in KNOWN if "_" in k.rpartition(".")[2]]))
def test_initials_name_a_key_that_has_them(key):
    section, dot, name = key.rpartition(".")
    initials = "".join(word[0] for word in name.split("_"))
    found = naming.nearest(section + dot + initials, KNOWN)
    exact = initials in naming.ELSEWHERE or any(k.rpartition(".")[2] == initials for k in KNOWN)
    if not exact:
        assert "".join(word[0] for word in found.rpartition(".")[2].split("_")) == initials


@some
@given(st.text(max_size=30))
def test_any_text_gives_a_key_or_none(text):
    assert naming.nearest(text, KNOWN) in {"", *KNOWN}
