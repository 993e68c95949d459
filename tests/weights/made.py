"""Small checkpoints on disk for the tests of this folder, written by the real exporters."""

import dataclasses

import gguf
import jax
import numpy as np
import tokenizers as hf

from aster_jax import weights
from aster_jax.data import tokenizer
from aster_jax.model import config, transformer
from aster_jax.weights import convert

QWEN = config.ModelConfig(
    vocab_size=96, num_layers=3, d_model=32, d_ff=48, num_heads=4, num_kv_heads=2,
    head_dim=16, rope_theta=1e6, rms_norm_eps=1e-6, tie_embeddings=False, qk_norm=True,
    max_positions=128,
)  # fmt: skip
LLAMA = dataclasses.replace(
    QWEN, num_heads=4, num_kv_heads=1, head_dim=12, rope_theta=1e4, rms_norm_eps=1e-5,
    tie_embeddings=True, qk_norm=False,
)  # fmt: skip


def random_params(cfg: config.ModelConfig, seed: int = 0) -> dict:
    """Parameters with nothing left at a special value: norm scales in [0.25, 1.75]."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if "norm" in str(path):
            return rng.uniform(0.25, 1.75, leaf.shape).astype(np.float32)
        return rng.normal(0.0, 0.1, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, transformer.abstract_params(cfg))


def hf_directory(where, cfg: config.ModelConfig = QWEN, seed: int = 0, **how):
    """A Hugging Face directory of a random model (no tokenizer) and its parameters."""
    params = random_params(cfg, seed)
    return weights.export(params, cfg, None, where, **how), params


def words(folder) -> tokenizer.BpeTokenizer:
    """A byte-level vocabulary of 261 entries from a tokenizer.json written there."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = hf.pre_tokenizers.ByteLevel.alphabet()
    ids = {piece: i for i, piece in enumerate([*sorted(letters), "th", "the"])}
    made = hf.Tokenizer(hf.models.BPE(vocab=ids, merges=[("t", "h"), ("th", "e")]))
    made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = hf.decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    made.save(str(folder / "tokenizer.json"))
    settings = '{"eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"}}'
    (folder / "tokenizer_config.json").write_text(settings)
    return tokenizer.load(folder)


def write_gguf(path, cfg: config.ModelConfig, params: dict, tensors=None, more=None):
    """The same model as a float32 GGUF file with a small byte-level vocabulary.

    `tensors` are added by name; `more(writer)` may add keys or write some of them again.
    """
    arch = "qwen3" if cfg.qk_norm else "llama"
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_block_count(cfg.num_layers)
    writer.add_context_length(cfg.max_positions)
    writer.add_embedding_length(cfg.d_model)
    writer.add_feed_forward_length(cfg.d_ff)
    writer.add_head_count(cfg.num_heads)
    writer.add_head_count_kv(cfg.num_kv_heads)
    writer.add_key_length(cfg.head_dim)
    writer.add_rope_freq_base(cfg.rope_theta)
    writer.add_layer_norm_rms_eps(cfg.rms_norm_eps)
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = [*"abcdefghijklmnopqrstuvwxyz", "\u0120", "\u010a", "th", "the"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(control + letters)
    writer.add_token_types([3] * len(control) + [1] * len(letters))
    writer.add_token_merges(["t h", "th e"])
    writer.add_eos_token_id(2)
    if more is not None:
        more(writer)
    for entry in convert.entries(cfg):
        leaf = convert.leaf_of(params, entry.path)
        for layer, name in enumerate(convert.tensor_names(entry, cfg, "gguf")):
            tensor = convert.to_tensor(entry, leaf[layer] if entry.stacked else leaf)
            if arch == "llama" and entry.path in ("layers/q/w", "layers/k/w"):
                # llama.cpp's order: rows i and i + H/2 of a head become neighbours.
                halves = tensor.reshape(-1, 2, cfg.head_dim // 2, cfg.d_model)
                tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
            writer.add_tensor(name, np.ascontiguousarray(tensor))
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same(found: dict, expected: dict):
    """Bit-equal parameter trees."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
