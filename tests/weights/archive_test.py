"""Safetensors directories: parts of tensors, number types, and an index that must be true."""

import dataclasses
import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors

from aster_jax import weights
from aster_jax.weights import archive
from tests.weights import made

NORM = "model.norm.weight"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_parts_come_in_the_stored_type(tmp_path, dtype):
    w_RC = np.arange(24).reshape(4, 6).astype(dtype)
    safetensors.save_file({"w": w_RC, "v": w_RC[0].copy()}, tmp_path / "model.safetensors")
    found = archive.SafetensorsArchive(tmp_path)
    assert found.shapes == {"w": (4, 6), "v": (6,)}
    part = found.read("w", slice(1, 3), slice(2, 5))
    assert part.dtype == dtype
    np.testing.assert_array_equal(part, w_RC[1:3, 2:5])
    np.testing.assert_array_equal(found.read("v", slice(2, 4), slice(None)), w_RC[0, 2:4])


def test_a_directory_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has neither model.safetensors nor"):
        archive.SafetensorsArchive(tmp_path)


def test_shards_and_their_index_must_agree(tmp_path):
    where, params = made.hf_directory(tmp_path / "hf", max_file_bytes=20_000)
    index = where / "model.safetensors.index.json"
    made.assert_same(weights.load(where).params, params)
    listed = json.loads(index.read_text())
    names = sorted(set(listed["weight_map"].values()))
    assert len(names) > 2
    moved = dict(listed["weight_map"], **{NORM: names[0]})
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(ValueError, match=NORM):
        weights.load(where)
    index.write_text(json.dumps(listed))
    (where / names[1]).unlink()
    with pytest.raises(ValueError, match=f"{names[1]} does not exist"):
        weights.load(where)


@pytest.mark.parametrize("text", ['{"weight_map": {"model.', "{}", '{"weight_map": 3}', "[]"])
def test_a_damaged_index_is_named(tmp_path, text):
    where, _ = made.hf_directory(tmp_path / "hf", max_file_bytes=30_000)
    (where / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="model.safetensors.index.json is truncated or no index"):
        archive.SafetensorsArchive(where)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.safetensors", "..", "", "a/b.safetensors",
                                  "a\\b.safetensors", "a\0.safetensors", "x" * 300, "\ud800",
                                  "a.bin"])  # fmt: skip
def test_an_index_names_its_neighbours_only(tmp_path, name):
    where, _ = made.hf_directory(tmp_path / "hf", max_file_bytes=30_000)
    shutil.copy(where / "model-00001-of-00006.safetensors", tmp_path / "a.safetensors")
    point(where, NORM, name)
    with pytest.raises(ValueError, match="only plain names of .safetensors files"):
        weights.describe(where)


def point(where, tensor, name):
    index = where / "model.safetensors.index.json"
    listed = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**listed, tensor: name}}))


def test_what_an_index_names_is_a_file_of_this_checkpoint(tmp_path):
    """Neither a pipe, which would never answer, nor a link to somewhere else."""
    where, params = made.hf_directory(tmp_path / "hf", max_file_bytes=30_000)
    shard, outside = where / "model-00002-of-00006.safetensors", tmp_path / "shard"
    shard.rename(outside)
    os.symlink(outside, shard)
    with pytest.raises(ValueError, match="00002.* is a link to .*shard, outside"):
        weights.load(where)
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(ValueError, match="00002.* is no regular file"):
        weights.load(where)
    shard.unlink()
    os.rename(outside, where / "kept")
    os.symlink("kept", shard)
    made.assert_same(weights.load(where).params, params)
    os.symlink(where, tmp_path / "alias")
    made.assert_same(weights.load(tmp_path / "alias").params, params)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja",
                                  "tokenizer.json", "tokenizer_config.json"])  # fmt: skip
def test_no_file_of_a_checkpoint_may_be_a_pipe(tmp_path, name):
    words = made.words(tmp_path / "words")
    cfg = dataclasses.replace(made.QWEN, vocab_size=words.vocab_size)
    where = weights.export(made.random_params(cfg), cfg, words, tmp_path / "hf")
    (where / name).unlink(missing_ok=True)
    os.mkfifo(where / name)
    with pytest.raises(ValueError, match=f"{name} is no regular file"):
        weights.load(where)
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(ValueError, match="m.gguf is no regular file"):
        weights.load(tmp_path / "m.gguf")


BUFFERS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
    "model.layers.2.self_attn.rotary_emb.cos_cached": np.ones((1, 1, 9, 16), np.float16),
    "model.rotary_emb.inv_freq": np.ones(8, np.float32),
    "model.layers.1.self_attn.bias": np.tril(np.ones((1, 1, 9, 9), bool)),
    "model.layers.1.self_attn.masked_bias": np.array(-1e4, np.float32),
    "model.embed_tokens.position_ids": np.arange(9)[None],
    "model.causal_mask": np.zeros((9, 9), np.uint8),
}


@pytest.mark.parametrize("size", [1 << 30, 30_000], ids=["one file", "shards"])
def test_buffers_that_every_reader_skips_are_skipped(tmp_path, size):
    where, params = made.hf_directory(tmp_path / "hf", max_file_bytes=size)
    path = sorted(where.glob("*.safetensors"))[0]
    safetensors.save_file({**safetensors.load_file(path), **BUFFERS}, path)
    made.assert_same(weights.load(where).params, params)
    for buffer in BUFFERS if size == 30_000 else ():
        point(where, buffer, path.name)
    made.assert_same(weights.load(where).params, params)


@pytest.mark.parametrize("name", ["self_attn.q_proj.bias", "self_attn.bias", "mlp.gate_proj.bias",
                                  "self_attn.rotary_emb.freqs", "self_attn.sinks"])  # fmt: skip
def test_biases_are_no_buffers(tmp_path, name):
    where, _ = made.hf_directory(tmp_path / "hf")
    path, name = where / "model.safetensors", f"model.layers.0.{name}"
    safetensors.save_file({**safetensors.load_file(path), name: np.ones(32, np.float32)}, path)
    with pytest.raises(ValueError, match=f"extra {name}"):
        weights.load(where)
