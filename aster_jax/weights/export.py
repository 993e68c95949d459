"""A model -> a Hugging Face directory that transformers and vLLM load.

After training. Tensors are brought to the host one at a time and one file is kept in
memory at once, so a sharded model is never gathered whole.
"""

import json
import pathlib

import jax
import ml_dtypes
import numpy as np
from safetensors import numpy as safetensors

from aster_jax.data import tokenizer as tokenizers
from aster_jax.model import config
from aster_jax.weights import convert, header

_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def export(
    params: dict,
    cfg: config.ModelConfig,
    tokenizer: tokenizers.Tokenizer | None,
    directory,
    dtype: str = "float32",
    max_file_bytes: int = 2 << 30,
    template: str | None = None,
) -> pathlib.Path:
    """Write safetensors files, config.json, generation config and tokenizer files.

    Args:
      params: the parameter tree, on any devices.
      cfg: its sizes.
      tokenizer: saved beside the weights; None writes none.
      directory: made if needed; must not hold a checkpoint already.
      dtype: "float32" or "bfloat16".
      max_file_bytes: a new weights file is begun before one gets larger than this.
      template: Jinja chat template to write beside the tokenizer's own settings.

    Raises:
      ValueError: names what does not fit, before anything is written.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    _check(params, cfg)
    directory = pathlib.Path(directory)
    if directory.exists() and any(directory.glob("*.safetensors*")):
        raise ValueError(f"{directory} already holds a checkpoint; choose an empty directory")
    directory.mkdir(parents=True, exist_ok=True)
    ids = (None, None) if tokenizer is None else (tokenizer.eos_id, tokenizer.pad_id)
    _write_tensors(params, cfg, directory, _DTYPES[dtype], max_file_bytes)
    _write_json(directory / "config.json", header.to_hf(cfg, dtype, *ids))
    if tokenizer is not None:
        tokenizer.save(directory)
        chosen = {"bos_token_id": None, "eos_token_id": ids[0], "pad_token_id": ids[1]}
        _write_json(directory / "generation_config.json", chosen)
    if template is not None:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


def _check(params, cfg):
    expected = {e.path: convert.param_shape(e, cfg) for e in convert.entries(cfg)}
    for path, shape in expected.items():
        found = convert.leaf_of(params, path)
        if found.shape != shape:
            raise ValueError(f"{path} has shape {found.shape}, the config says {shape}")
    extra = len(jax.tree.leaves(params)) - len(expected)
    if extra:
        raise ValueError(f"the parameters hold {extra} arrays that the config does not know")


def _plan(cfg, dtype, max_file_bytes) -> list[list[tuple]]:
    """(tensor name, table entry, layer or None) for every file, in order."""
    files, size = [[]], 0
    for entry in convert.entries(cfg):
        num_bytes = int(np.prod(convert.tensor_shape(entry, cfg))) * dtype.itemsize
        for layer, name in enumerate(convert.tensor_names(entry, cfg, "hf")):
            if files[-1] and size + num_bytes > max_file_bytes:
                files.append([])
                size = 0
            files[-1].append((name, entry, layer if entry.stacked else None))
            size += num_bytes
    return files


def _write_tensors(params, cfg, directory, dtype, max_file_bytes):
    files = _plan(cfg, dtype, max_file_bytes)
    weight_map, total = {}, 0
    for number, content in enumerate(files, 1):
        name = "model.safetensors"
        if len(files) > 1:
            name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors = {}
        for tensor, entry, layer in content:
            leaf = convert.leaf_of(params, entry.path)
            ours = np.asarray(jax.device_get(leaf if layer is None else leaf[layer]))
            stored = np.ascontiguousarray(convert.to_tensor(entry, ours).astype(dtype))
            tensors[tensor], weight_map[tensor] = stored, name
            total += stored.nbytes
        safetensors.save_file(tensors, directory / name, metadata={"format": "pt"})
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
