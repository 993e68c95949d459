"""Configs: both spellings, a round trip, and every key that would change the maths."""

import json

import numpy as np
import pytest

from aster_jax import errors
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
        ({"use_mrope": True}, "use_mrope=True is not supported"),
        ({"qkv_bias": True}, "qkv_bias=True is not supported"),
        ({"use_rope": False}, "unknown key 'use_rope'"),
        ({"auto_map": {"AutoModel": "x.y"}}, "unknown key 'auto_map'"),
        ({"quantization_config": {}}, "unknown key 'quantization_config'"),
        ({"rope_scaling": {"type": "default", "factor": 2.0}}, "factor.*is not supported"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary"),
    ],
)
def test_what_changes_the_maths_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        header.from_hf(write(tmp_path, **changes))


IDLE = {
    "quantization_config": None, "_attn_implementation_autoset": True, "use_mrope": False,
    "tokenizer_class": "Qwen2Tokenizer", "attn_logit_softcapping": None, "auto_map": None,
    "torchscript": False, "is_encoder_decoder": False, "add_cross_attention": False,
    "temperature": 0.6, "do_sample": True, "id2label": {"0": "LABEL_0"}, "pruned_heads": {},
    "chunk_size_feed_forward": 0, "is_decoder": True, "max_sequence_length": 2048,
    "problem_type": None, "_attn_implementation": "sdpa", "hidden_act": None, "layer_types": None,
    "sliding_window": None, "head_dim": 16, "rope_scaling": {"rope_type": "default", "factor": None},
}  # fmt: skip


@pytest.mark.parametrize("key", IDLE)
def test_keys_that_change_nothing_are_accepted(tmp_path, key):
    assert header.from_hf(write(tmp_path, **{key: IDLE[key]})) == made.QWEN


@pytest.mark.parametrize("key", ["a_key_of_tomorrow", "logit_soft_cap", "use_rope", "moe"])
def test_a_null_never_changes_the_maths(tmp_path, key):
    assert header.from_hf(write(tmp_path, **{key: None})) == made.QWEN
    with pytest.raises(ValueError, match=f"config.json: unknown key '{key}'"):
        header.from_hf(write(tmp_path, **{key: 1}))


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim",
         "num_attention_heads", "num_key_value_heads", "max_position_embeddings")  # fmt: skip
NO_SIZES = (0, -1, 2.5, True, "4", [4], {}, 1 << 40, float("nan"))


@pytest.mark.parametrize("key", SIZES)
def test_what_is_no_size_is_named(tmp_path, key):
    for value in NO_SIZES:
        with pytest.raises(errors.InputError, match=f"config.json: {key}=.* is no whole number"):
            header.from_hf(write(tmp_path, **{key: value}))


@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [0, -1e-5, float("nan"), float("inf"), 1e-60, 1e300, "1", [], True])
def test_what_is_no_constant_is_named(tmp_path, key, value):
    with pytest.raises(errors.InputError, match=f"config.json: {key}=.* is no finite number above"):
        header.from_hf(write(tmp_path, **{key: value}))
    nested = {"rope_theta": KeyError, "rope_parameters": {"rope_theta": value}}
    with pytest.raises(errors.InputError, match="rope_parameters: rope_theta=.* is no finite"):
        header.from_hf(write(tmp_path, **nested))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": "Qwen3"}, "architecture 'Qwen3' is not"),
        ({"architectures": [["x"]]}, "is not supported"),
        ({"architectures": None}, "is not supported"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false' is neither"),
        ({"tie_word_embeddings": None}, "is neither"),
        ({"layer_types": [["full_attention"]]}, "more than full_attention"),
        ({"layer_types": 3}, "more than full_attention"),
        ({"rope_scaling": [1]}, "rope_scaling=.1. is no object"),
        ({"rope_scaling": {"type": ["yarn"]}}, "is not supported"),
        ({"head_dim": 15}, "config.json: head_dim=15 must be even"),
        ({"head_dim": None, "num_attention_heads": 3}, "hidden_size=32 is no multiple"),
    ],
)
def test_values_of_the_wrong_kind_are_named(tmp_path, changes, message):
    with pytest.raises(errors.InputError, match=message):
        header.from_hf(write(tmp_path, **changes))


def gguf_fields(**changes):
    about = {
        "block_count": 2, "embedding_length": 32, "feed_forward_length": 48, "context_length": 64,
        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.freq_base": 1e4,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    named = {f"llama.{key}": value for key, value in {**about, **changes}.items()}
    return {"general.architecture": "llama", **named}


@pytest.mark.parametrize("name", ["block_count", "embedding_length", "attention.head_count",
                                  "attention.head_count_kv", "attention.key_length"])  # fmt: skip
def test_gguf_sizes_and_constants_are_checked(name):
    tensors = {"token_embd.weight": (96, 32)}
    assert header.from_gguf(gguf_fields(), tensors, "m.gguf").head_dim == 8
    for value in (0, -1, np.zeros(3, np.int32), "4", 2.0, False):
        with pytest.raises(errors.InputError, match=f"m.gguf: llama.{name}=.* is no whole number"):
            header.from_gguf(gguf_fields(**{name: value}), tensors, "m.gguf")
    for name in ("rope.freq_base", "attention.layer_norm_rms_epsilon"):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(errors.InputError, match=f"llama.{name}=.* is no finite number"):
                header.from_gguf(gguf_fields(**{name: value}), tensors, "m.gguf")


def test_default_rope_type_and_missing_kv_heads_are_understood(tmp_path):
    theta = {"rope_theta": KeyError, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
    assert header.from_hf(write(tmp_path, **theta)).rope_theta == 7.0
    assert header.from_hf(write(tmp_path, num_key_value_heads=KeyError)).num_kv_heads == 4


def test_damaged_config_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        header.from_hf(path)
