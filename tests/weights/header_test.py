"""Configs: both spellings, a round trip, and every key that would change the maths."""

import json

import pytest

from aster_jax.model import config
from aster_jax.weights import header
from tests import shared_data
from tests.weights import made


def write(tmp_path, **changes):
    """A config.json of a small Qwen3 with changed keys (None as a value stays None)."""
    raw = header.to_hf(made.QWEN, "float32", 2, 0)
    for key, value in changes.items():
        if value is KeyError:
            raw.pop(key)
        else:
            raw[key] = value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(raw))
    return path


def test_published_and_newer_spelling():
    new = header.from_hf(shared_data.path("hf_tiny/qwen3_new_style/config.json"))
    assert (new.rope_theta, new.qk_norm, new.tie_embeddings, new.head_dim) == (1e6, True, False, 32)
    old = header.from_hf(shared_data.path("hf_tiny/llama_old_style/config.json"))
    assert (old.rope_theta, old.qk_norm, old.tie_embeddings, old.head_dim) == (5e5, False, True, 12)


@pytest.mark.parametrize("cfg", [made.QWEN, made.LLAMA], ids=["qwen3", "llama"])
def test_what_is_written_reads_back(tmp_path, cfg):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(header.to_hf(cfg, "float32", None, None)))
    assert header.from_hf(path) == cfg


def test_2507_config_keeps_its_rotary_base(tmp_path):
    cfg = config.PRESETS["qwen3_4b_thinking_2507"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(header.to_hf(cfg, "bfloat16", 151_645, 151_643)))
    found = header.from_hf(path)
    assert (found.rope_theta, found.max_positions) == (5e6, 262_144)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "'Qwen3MoeForCausalLM' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn.*is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear.*is not supported"),
        ({"rope_theta": KeyError}, "has no 'rope_theta'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"use_sliding_window": KeyError, "sliding_window": 128}, "sliding_window=128"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "more than full_attention"),
        ({"logit_soft_cap": 30.0}, "unknown key 'logit_soft_cap'"),
        ({"quantization_config": {"bits": 4}}, "unknown key 'quantization_config'"),
        ({"tie_word_embeddings": KeyError}, "has no 'tie_word_embeddings'"),
        ({"num_key_value_heads": 3}, "not a multiple of"),
    ],
)
def test_what_changes_the_maths_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        header.from_hf(write(tmp_path, **changes))


def test_default_rope_type_and_missing_kv_heads_are_understood(tmp_path):
    theta = {"rope_theta": KeyError, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
    assert header.from_hf(write(tmp_path, **theta)).rope_theta == 7.0
    assert header.from_hf(write(tmp_path, num_key_value_heads=KeyError)).num_kv_heads == 4


def test_damaged_config_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        header.from_hf(path)
