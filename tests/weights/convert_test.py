"""The name table: it covers every parameter, parts equal the whole, and both ways agree."""

import dataclasses
import itertools

import jax
import ml_dtypes
import numpy as np
import pytest

from aster_jax import mesh as meshes
from aster_jax.model import config, transformer
from aster_jax.weights import convert, header
from tests.weights import made

COUNTS = {
    "qwen3_0p6b": 596_049_920,
    "qwen3_1p7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_4b_thinking_2507": 4_022_468_096,
}


@pytest.mark.parametrize("name", COUNTS)
def test_table_covers_the_published_models(name, eight_devices):
    cfg = config.PRESETS[name]
    shapes = {
        meshes.path_name(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(transformer.abstract_params(cfg))
    }
    assert {e.path: convert.param_shape(e, cfg) for e in convert.entries(cfg)} == shapes
    tensors = [
        convert.tensor_shape(e, cfg)
        for e in convert.entries(cfg)
        for _ in convert.tensor_names(e, cfg, "hf")
    ]
    assert sum(int(np.prod(shape)) for shape in tensors) == COUNTS[name]
    assert transformer.count_params(cfg) == COUNTS[name]
    for path, shape in shapes.items():
        meshes.spec_of(path, shape, eight_devices)  # raises where the table has no rule


def test_only_the_2507_release_has_the_larger_rotary_base():
    assert {n: c.rope_theta for n, c in config.PRESETS.items()} == {
        "qwen3_0p6b": 1e6, "qwen3_1p7b": 1e6, "qwen3_4b": 1e6, "qwen3_4b_thinking_2507": 5e6,
    }  # fmt: skip
    for cfg in config.PRESETS.values():
        assert header.to_hf(cfg, "bfloat16", None, None)["rope_theta"] == cfg.rope_theta


def tensors_of(cfg, params):
    """Checkpoint tensors by name, and a reader of their parts."""
    found = {}
    for entry in convert.entries(cfg):
        leaf = convert.leaf_of(params, entry.path)
        for layer, name in enumerate(convert.tensor_names(entry, cfg, "hf")):
            found[name] = convert.to_tensor(entry, leaf[layer] if entry.stacked else leaf)

    def read(name, rows, columns):
        tensor = found[name]
        return tensor[rows] if tensor.ndim == 1 else tensor[rows, columns]

    return found, read


@pytest.mark.parametrize("cfg", [made.QWEN, made.LLAMA], ids=["qwen3", "llama"])
def test_any_part_read_alone_equals_that_part_of_the_whole(cfg):
    params = made.random_params(cfg)
    _, read = tensors_of(cfg, params)
    for entry in convert.entries(cfg):
        whole = convert.leaf_of(params, entry.path)
        # Halves of every axis, as a mesh would cut them, and everything.
        cuts = [
            [slice(None), slice(0, n // 2), slice(n // 2, n)] if n > 1 else [slice(None)]
            for n in whole.shape
        ]
        for index in itertools.product(*cuts):
            part = convert.read_block(entry, cfg, "hf", read, index, np.float32)
            np.testing.assert_array_equal(part, whole[index])


def test_layouts_are_the_transposes_they_should_be():
    cfg = made.QWEN
    params = made.random_params(cfg)
    tensors, _ = tensors_of(cfg, params)
    x_D = np.linspace(-1, 1, cfg.d_model, dtype=np.float32)
    for name, path in (("q_proj", "layers/q/w"), ("k_proj", "layers/k/w")):
        # What a torch Linear computes, split into heads afterwards.
        theirs = (tensors[f"model.layers.1.self_attn.{name}.weight"] @ x_D).reshape(-1, 16)
        ours = np.einsum("D,DNH->NH", x_D, convert.leaf_of(params, path)[1])
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    heads_NH = np.arange(64, dtype=np.float32).reshape(4, 16) / 64
    theirs = tensors["model.layers.1.self_attn.o_proj.weight"] @ heads_NH.reshape(-1)
    ours = np.einsum("NH,NHD->D", heads_NH, params["layers"]["o"]["w"][1])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_missing_parameter_is_named():
    with pytest.raises(ValueError, match="no layers/q/w"):
        convert.leaf_of({"layers": {}}, "layers/q/w")


def test_masks_are_told_from_parameters_by_their_shape():
    mask = "model.layers.3.self_attn.bias"
    assert convert.is_buffer(mask, (1, 1, 8, 8)) and convert.is_buffer(mask, (8, 8))
    assert not convert.is_buffer(mask, (8,)) and not convert.is_buffer(mask, (1, 4, 8, 8))
    assert not convert.is_buffer("model.layers.3.self_attn.q_proj.bias", (8, 8))
    assert not convert.is_buffer("rope_freqs.weight", (8,))
    assert convert.is_buffer("blk.0.attn_rot_embd.weight", (8,))


def test_layers_beyond_the_tensors_are_refused_at_once():
    cfg = dataclasses.replace(made.QWEN, num_layers=10**12)
    with pytest.raises(ValueError, match="1000000000000 layers, and 1 tensors in all"):
        convert.check_tensors({"a": (1,)}, cfg, "hf", "here")


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("shape", [(3,), (2_500, 1_000), (2, 3, 4), (0, 3), (1, 3_000_000)])
def test_every_number_of_a_tensor_is_looked_at(dtype, shape):
    array = np.zeros(shape, dtype)
    convert.check_finite(array, "w")
    for at in (0, -1) if array.size else ():
        array.reshape(-1)[at] = np.nan
        with pytest.raises(ValueError, match="w is not finite"):
            convert.check_finite(array.T if array.ndim == 2 else array, "w")
        array.reshape(-1)[at] = 0
