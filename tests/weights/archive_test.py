"""Safetensors directories: parts of tensors, number types, and an index that must be true."""

import json

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
