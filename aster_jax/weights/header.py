"""A checkpoint's own description of itself -> ModelConfig, and back to a config.json.

Every key must be known: one that changes the maths in a way this model does not have is
an error that names it, for a model built without it would run and be silently wrong. Sizes
and constants are checked here, before anything counts up to them or divides by them.
"""

import math
import pathlib
from collections.abc import Mapping

import numpy as np

from aster_jax.data import files
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
    "use_mrope": False, "qkv_bias": False, "use_bias": False, "bias": False,
    "lm_head_bias": False, "is_encoder_decoder": False, "add_cross_attention": False,
    "tie_encoder_decoder": False, "chunk_size_feed_forward": 0, "pruned_heads": {},
}  # fmt: skip
_WITHOUT_EFFECT = {
    "architectures", "model_type", "bos_token_id", "eos_token_id", "pad_token_id",
    "initializer_range", "dtype", "torch_dtype", "transformers_version", "use_cache",
    "max_window_layers", "attention_dropout", "_name_or_path", "is_llama_config",
    "transformers.js_config", "unsloth_version", "unsloth_fixed", "output_attentions",
    "output_hidden_states", "return_dict",
    # How and by what it is run.
    "tokenizer_class", "_attn_implementation", "_attn_implementation_autoset",
    "attn_implementation", "torchscript", "use_bfloat16", "tf_legacy_loss",
    "gradient_checkpointing", "_commit_hash", "max_sequence_length", "model_max_length",
    "is_decoder", "hidden_dropout", "mlp_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id", "decoder_start_token_id",
    "prefix", "task_specific_params", "finetuning_task", "problem_type", "id2label", "label2id",
    # Defaults of generation, which older releases wrote into every config.
    "max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams",
    "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p",
    "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "bad_words_ids",
    "encoder_no_repeat_ngram_size", "num_return_sequences", "output_scores", "suppress_tokens",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
    "remove_invalid_values", "exponential_decay_length_penalty", "begin_suppress_tokens",
}  # fmt: skip
_MOST = 1 << 31  # of any size; the checkpoint's tensors bound it further


def from_hf(path) -> config.ModelConfig:
    """Read a config.json, in the published spelling or that of transformers 5."""
    path = pathlib.Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; a Hugging Face directory needs its config.json")
    raw = files.read_object(path)
    named = _get(raw, "architectures", path)
    architecture = named[0] if isinstance(named, list) and len(named) == 1 else named
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise InputError(
            f"{path}: architecture {architecture!r:.80} is not supported, only "
            f"{', '.join(ARCHITECTURES)}"
        )
    _check_keys(raw, path)
    width, heads = (_size(raw, key, path) for key in ("hidden_size", "num_attention_heads"))
    given = {k: _size(raw, k, path) for k in ("head_dim", "num_key_value_heads") if _has(raw, k)}
    if "head_dim" not in given and width % heads:
        raise InputError(f"{path}: hidden_size={width} is no multiple of num_attention_heads="
                         f"{heads} and there is no head_dim")  # fmt: skip
    tied = _get(raw, "tie_word_embeddings", path)
    if not isinstance(tied, bool):
        raise InputError(f"{path}: tie_word_embeddings={tied!r:.80} is neither true nor false")
    return _made(
        path,
        vocab_size=_size(raw, "vocab_size", path),
        num_layers=_size(raw, "num_hidden_layers", path),
        d_model=width,
        d_ff=_size(raw, "intermediate_size", path),
        num_heads=heads,
        num_kv_heads=given["num_key_value_heads"] if "num_key_value_heads" in given else heads,
        head_dim=given["head_dim"] if "head_dim" in given else width // heads,
        rope_theta=_theta(raw, path),
        rms_norm_eps=_positive(raw, "rms_norm_eps", path),
        tie_embeddings=tied,
        qk_norm=ARCHITECTURES[architecture],
        max_positions=_size(raw, "max_position_embeddings", path),
    )


def _made(path, **sizes) -> config.ModelConfig:
    try:
        return config.ModelConfig(**sizes)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _get(raw: Mapping, key: str, origin):
    if key not in raw:
        raise InputError(f"{origin} has no {key!r}")
    return raw[key]


def _has(raw: Mapping, key: str) -> bool:
    return key in raw and raw[key] is not None


def _size(raw: Mapping, key: str, origin) -> int:
    """A whole number of at least 1."""
    value = _get(raw, key, origin)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise InputError(f"{origin}: {key}={value!r:.80} is no whole number from 1 to {_MOST}")
    return value


def _positive(raw: Mapping, key: str, origin) -> float:
    """A finite number above 0."""
    value = _get(raw, key, origin)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # The ends are those of float32: beyond them it is 0 or infinite where it is used.
    if not (number and 1.2e-38 <= value < 3e38):
        raise InputError(f"{origin}: {key}={value!r:.80} is no finite number above 0")
    return float(value)


def _check_keys(raw, path):
    for key, value in raw.items():
        if value is None:  # as good as absent: where a value is needed it is asked for
            continue
        if key in _FIXED and value != _FIXED[key]:
            raise InputError(f"{path}: {key}={value!r:.80} is not supported, only {_FIXED[key]!r}")
        if key not in _SIZES and key not in _FIXED and key not in _WITHOUT_EFFECT:
            raise InputError(
                f"{path}: unknown key {key!r} (value {value!r:.80}); it may change the maths. "
                "Remove it if it does not"
            )
    kinds = raw["layer_types"] if _has(raw, "layer_types") else []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise InputError(f"{path}: layer_types={kinds!r:.80} has more than full_attention")
    switched_off = "use_sliding_window" in raw and raw["use_sliding_window"] is False
    if _has(raw, "sliding_window") and not switched_off:
        raise InputError(f"{path}: sliding_window={raw['sliding_window']!r:.80} is not supported")


def _theta(raw, path) -> float:
    """The rotary base, from `rope_parameters` or from `rope_theta`; scaling is refused."""
    for key in ("rope_scaling", "rope_parameters"):
        if not _has(raw, key):
            continue
        if not isinstance(raw[key], dict):
            raise InputError(f"{path}: {key}={raw[key]!r:.80} is no object")
        given = {name: value for name, value in raw[key].items() if value is not None}
        kinds = [given[name] for name in ("rope_type", "type") if name in given]
        unknown = set(given) - {"rope_type", "type", "rope_theta"}
        if "partial_rotary_factor" in given and given["partial_rotary_factor"] == 1.0:
            unknown.discard("partial_rotary_factor")
        if any(kind != "default" for kind in kinds) or unknown:
            raise InputError(
                f"{path}: {key}={given!r:.200} is not supported, only type 'default'"
            )
        if "rope_theta" in given:
            return _positive(given, "rope_theta", f"{path}: {key}")
    return _positive(raw, "rope_theta", path)


def from_gguf(fields: Mapping, tensors: Mapping[str, tuple], path) -> config.ModelConfig:
    """Read a GGUF header; `tensors` (name -> shape) tells whether embeddings are tied."""

    def read(key):
        return _get(fields, key, path)

    arch = read("general.architecture")
    if not isinstance(arch, str) or arch not in _GGUF_ARCHITECTURES:
        raise InputError(
            f"{path}: architecture {arch!r:.80} is not supported, only "
            f"{', '.join(_GGUF_ARCHITECTURES)}"
        )
    for key in fields:
        known = key == f"{arch}.rope.scaling.type" and str(read(key)) == "none"
        if key.startswith(f"{arch}.rope.scaling.") and not known:
            raise InputError(f"{path}: rope scaling ({key}={read(key)!r:.80}) is not supported")

    def size(name):
        return _size(fields, f"{arch}.{name}", path)

    def constant(name):
        return _shortest(_positive(fields, f"{arch}.{name}", path))

    heads, width = size("attention.head_count"), size("embedding_length")
    given = f"{arch}.attention.key_length" in fields
    head_dim = size("attention.key_length") if given else width // heads
    for name in ("rope.dimension_count", "attention.value_length"):
        if f"{arch}.{name}" in fields and size(name) != head_dim:
            raise InputError(f"{path}: {arch}.{name}={size(name)} differs from head_dim={head_dim}")
    grouped = f"{arch}.attention.head_count_kv" in fields
    return _made(
        path,
        vocab_size=_get(tensors, "token_embd.weight", path)[0],
        num_layers=size("block_count"),
        d_model=width,
        d_ff=size("feed_forward_length"),
        num_heads=heads,
        num_kv_heads=size("attention.head_count_kv") if grouped else heads,
        head_dim=head_dim,
        rope_theta=constant("rope.freq_base"),
        rms_norm_eps=constant("attention.layer_norm_rms_epsilon"),
        tie_embeddings="output.weight" not in tensors,
        qk_norm=_GGUF_ARCHITECTURES[arch],
        max_positions=size("context_length"),
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
