"""A checkpoint's own description of itself -> ModelConfig, and back to a config.json.

Every key must be known: one that changes the maths in a way this model does not have is
an error that names it, for a model built without it would run and be silently wrong.
"""

import json
import pathlib
from collections.abc import Mapping

import numpy as np

from aster_jax.errors import InputError
from aster_jax.model import config

ARCHITECTURES = {"Qwen3ForCausalLM": True, "LlamaForCausalLM": False}  # -> has q/k norms
_GGUF_ARCHITECTURES = {"qwen3": True, "llama": False}

_SIZES = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta",
    "rope_parameters", "rope_scaling", "tie_word_embeddings", "max_position_embeddings",
    "layer_types", "sliding_window",
}  # fmt: skip
# Keys with the one value that this model computes.
_FIXED = {
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1,
    "use_sliding_window": False, "partial_rotary_factor": 1.0, "rope_interleaved": False,
}  # fmt: skip
_WITHOUT_EFFECT = {
    "architectures", "model_type", "bos_token_id", "eos_token_id", "pad_token_id",
    "initializer_range", "dtype", "torch_dtype", "transformers_version", "use_cache",
    "max_window_layers", "attention_dropout", "_name_or_path", "is_llama_config",
    "transformers.js_config", "unsloth_version", "unsloth_fixed", "output_attentions",
    "output_hidden_states", "return_dict",
}  # fmt: skip


def from_hf(path) -> config.ModelConfig:
    """Read a config.json, in the published spelling or that of transformers 5."""
    path = pathlib.Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; a Hugging Face directory needs its config.json")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    architecture = ", ".join(_get(raw, "architectures", path))
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{path}: architecture {architecture!r} is not supported, only "
            f"{', '.join(ARCHITECTURES)}"
        )
    _check_keys(raw, path)
    heads, width = _get(raw, "num_attention_heads", path), _get(raw, "hidden_size", path)
    given_size = raw["head_dim"] if "head_dim" in raw else None
    kv_heads = raw["num_key_value_heads"] if "num_key_value_heads" in raw else None
    return config.ModelConfig(
        vocab_size=_get(raw, "vocab_size", path),
        num_layers=_get(raw, "num_hidden_layers", path),
        d_model=width,
        d_ff=_get(raw, "intermediate_size", path),
        num_heads=heads,
        num_kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=width // heads if given_size is None else given_size,
        rope_theta=_theta(raw, path),
        rms_norm_eps=_get(raw, "rms_norm_eps", path),
        tie_embeddings=_get(raw, "tie_word_embeddings", path),
        qk_norm=ARCHITECTURES[architecture],
        max_positions=_get(raw, "max_position_embeddings", path),
    )


def _get(raw: Mapping, key: str, origin):
    if key not in raw:
        raise InputError(f"{origin} has no {key!r}")
    return raw[key]


def _check_keys(raw, path):
    for key, value in raw.items():
        if key in _FIXED and value not in (None, _FIXED[key]):
            raise InputError(f"{path}: {key}={value!r} is not supported, only {_FIXED[key]!r}")
        if key not in _SIZES and key not in _FIXED and key not in _WITHOUT_EFFECT:
            raise InputError(
                f"{path}: unknown key {key!r} (value {value!r}); it may change the maths. "
                "Remove it if it does not"
            )
    if "layer_types" in raw and set(raw["layer_types"] or ()) - {"full_attention"}:
        raise InputError(f"{path}: layer_types={raw['layer_types']} has more than full_attention")
    window = raw["sliding_window"] if "sliding_window" in raw else None
    switched_off = "use_sliding_window" in raw and raw["use_sliding_window"] is False
    if window is not None and not switched_off:
        raise InputError(f"{path}: sliding_window={window} is not supported")


def _theta(raw, path) -> float:
    """The rotary base, from `rope_parameters` or from `rope_theta`; scaling is refused."""
    for key in ("rope_scaling", "rope_parameters"):
        if key in raw and raw[key] is not None:
            given = raw[key]
            kinds = {given[name] for name in ("rope_type", "type") if name in given}
            unknown = set(given) - {"rope_type", "type", "rope_theta"}
            if kinds - {"default"} or unknown:
                raise InputError(f"{path}: {key}={given} is not supported, only type 'default'")
            if "rope_theta" in given:
                return float(given["rope_theta"])
    return float(_get(raw, "rope_theta", path))


def from_gguf(fields: Mapping, tensors: Mapping[str, tuple], path) -> config.ModelConfig:
    """Read a GGUF header; `tensors` (name -> shape) tells whether embeddings are tied."""

    def read(key):
        return _get(fields, key, path)

    arch = read("general.architecture")
    if arch not in _GGUF_ARCHITECTURES:
        raise InputError(
            f"{path}: architecture {arch!r} is not supported, only {', '.join(_GGUF_ARCHITECTURES)}"
        )
    for key in fields:
        known = key == f"{arch}.rope.scaling.type" and read(key) == "none"
        if key.startswith(f"{arch}.rope.scaling.") and not known:
            raise InputError(f"{path}: rope scaling ({key}={read(key)}) is not supported")
    heads, width = read(f"{arch}.attention.head_count"), read(f"{arch}.embedding_length")
    key_length = f"{arch}.attention.key_length"
    rotated = f"{arch}.rope.dimension_count"
    head_dim = read(key_length) if key_length in fields else width // heads
    if rotated in fields and read(rotated) != head_dim:
        raise InputError(f"{path}: {rotated}={read(rotated)} differs from head_dim={head_dim}")
    kv = f"{arch}.attention.head_count_kv"
    return config.ModelConfig(
        vocab_size=_get(tensors, "token_embd.weight", path)[0],
        num_layers=read(f"{arch}.block_count"),
        d_model=width,
        d_ff=read(f"{arch}.feed_forward_length"),
        num_heads=heads,
        num_kv_heads=read(kv) if kv in fields else heads,
        head_dim=head_dim,
        rope_theta=_shortest(read(f"{arch}.rope.freq_base")),
        rms_norm_eps=_shortest(read(f"{arch}.attention.layer_norm_rms_epsilon")),
        tie_embeddings="output.weight" not in tensors,
        qk_norm=_GGUF_ARCHITECTURES[arch],
        max_positions=read(f"{arch}.context_length"),
    )


def _shortest(value: float) -> float:
    """The decimal a float32 field was written from: 1e-5, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def to_hf(cfg: config.ModelConfig, dtype: str, eos_id: int | None, pad_id: int | None) -> dict:
    """The config.json of a model, in the published spelling that every reader knows."""
    llama = not cfg.qk_norm
    return {
        "architectures": ["LlamaForCausalLM" if llama else "Qwen3ForCausalLM"],
        "model_type": "llama" if llama else "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        **({"mlp_bias": False} if llama else {"use_sliding_window": False}),
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "head_dim": cfg.head_dim,
        "hidden_act": "silu",
        "hidden_size": cfg.d_model,
        "initializer_range": 0.02,
        "intermediate_size": cfg.d_ff,
        "max_position_embeddings": cfg.max_positions,
        "num_attention_heads": cfg.num_heads,
        "num_hidden_layers": cfg.num_layers,
        "num_key_value_heads": cfg.num_kv_heads,
        "rms_norm_eps": cfg.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": cfg.rope_theta,
        "tie_word_embeddings": cfg.tie_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": cfg.vocab_size,
    }
