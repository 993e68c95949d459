"""A model -> a Hugging Face directory that transformers and vLLM load.

After training. Tensors are brought to the host and written one at a time, so a sharded
model is never gathered whole. With several processes all of them call `export` and the
first one writes. The files are written beside their place and moved there when all of them
are whole, so that what fails or is killed in the middle leaves nothing that looks like a
checkpoint.
"""

import json
import os
import pathlib
import shutil
import struct

import jax
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils

from aster_jax.data import chat
from aster_jax.data import tokenizer as tokenizers
from aster_jax.errors import InputError
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
    style: str | None = None,
) -> pathlib.Path:
    """Write safetensors files, config.json, generation config, tokenizer and chat template.

    The chat template is that of `data.chat`, which keeps the thoughts of earlier turns. The
    templates that Qwen3 models come with drop them: served with those, a model trained here
    would read conversations that it was never trained on.

    Args:
      params: the parameter tree, on any devices.
      cfg: its sizes.
      tokenizer: saved beside the weights; None writes none.
      directory: made if needed; must not hold a checkpoint already.
      dtype: "float32" or "bfloat16".
      max_file_bytes: a new weights file is begun before one gets larger than this.
      style: the markup it was trained with, one of `chat.STYLES`. None takes the style of
        the tokenizer's own template if that has thoughts to keep, and else leaves the
        tokenizer's settings as they are.

    Raises:
      ValueError: names what does not fit, or the tensor that holds a NaN or an infinity (as
        `dtype`); then there is no checkpoint.
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype={dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    if style is not None and tokenizer is None:
        raise InputError(f"style={style!r} needs the tokenizer that its control tokens are in")
    if style not in (None, *chat.STYLES):
        raise InputError(f"style={style!r} is unknown; choose one of {', '.join(chat.STYLES)}")
    _check(params, cfg)
    ends = [None] if tokenizer is None else _ends(tokenizer, style)
    directory = pathlib.Path(directory)
    if directory.exists() and any(directory.glob("*.safetensors*")):
        raise InputError(f"{directory} already holds a checkpoint; choose an empty directory")
    place = directory.resolve()
    # In the same file system either way: a directory that is there may be a mounted one.
    partial = place / ".partial" if place.exists() else place.with_name(f".{place.name}.partial")
    if jax.process_count() > 1:  # the first must not write before the last has looked
        multihost_utils.sync_global_devices("aster_jax export")
    try:
        if jax.process_index() == 0:
            shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
            partial.mkdir(parents=True)
        _write_tensors(params, cfg, partial, _DTYPES[dtype], max_file_bytes)
        _write_settings(cfg, tokenizer, ends, style, partial, dtype)
        if jax.process_index() == 0:
            _move(partial, place)
    finally:
        if jax.process_index() == 0:
            shutil.rmtree(partial, ignore_errors=True)
    return directory


def _write_settings(cfg, tokenizer, ends, style, directory, dtype):
    """Everything but the tensors."""
    ids = (None, None) if tokenizer is None else (tokenizer.eos_id, tokenizer.pad_id)
    _write_json(directory / "config.json", header.to_hf(cfg, dtype, *ids))
    if tokenizer is None or jax.process_index():
        return
    tokenizer.save(directory)
    stop = ends if len(ends) > 1 else ends[0]
    chosen = {"bos_token_id": None, "eos_token_id": stop, "pad_token_id": ids[1]}
    _write_json(directory / "generation_config.json", chosen)
    _write_template(tokenizer, style, directory)


def _move(partial: pathlib.Path, directory: pathlib.Path):
    """Put the whole checkpoint in its place: at once, or into a directory, config.json last.

    Without that one no reader takes the others for a model.
    """
    if not directory.exists():
        os.replace(partial, directory)
        return
    (directory / "config.json").unlink(missing_ok=True)
    for file in sorted(partial.iterdir(), key=lambda f: (f.name == "config.json", f.name)):
        os.replace(file, directory / file.name)


def _ends(tokenizer, style) -> list[int]:
    """Ids that other software has to stop at: the end of a turn, then that of a text.

    They differ where training began from a base checkpoint: its own end is that of a text,
    which a model trained here hardly writes, so a server that knew no other would not stop.
    """
    if style is None:
        if tokenizers.END_OF_TURN not in tokenizer.control:
            return [tokenizer.eos_id]  # not a vocabulary for conversations
        style = chat.detect_style(tokenizers.chat_template(tokenizer))
    return list(dict.fromkeys([*chat.stop_ids(tokenizer, style), tokenizer.eos_id]))


def _write_template(tokenizer, style, directory):
    """The chat template, in a file of its own and, for older readers, in the settings."""
    if style is None:
        style = chat.detect_style(tokenizers.chat_template(tokenizer))
        if style == "chatml":
            return
    template = chat.template(style)
    (directory / tokenizers.TEMPLATE_FILE).write_text(template, encoding="utf-8")
    settings = directory / "tokenizer_config.json"
    if settings.exists():
        known = json.loads(settings.read_text(encoding="utf-8"))
        _write_json(settings, {**known, "chat_template": template})


def _check(params, cfg):
    expected = {e.path: convert.param_shape(e, cfg) for e in convert.entries(cfg)}
    for path, shape in expected.items():
        found = convert.leaf_of(params, path)
        if found.shape != shape:
            raise InputError(f"{path} has shape {found.shape}, the config says {shape}")
    extra = len(jax.tree.leaves(params)) - len(expected)
    if extra:
        raise InputError(f"the parameters hold {extra} arrays that the config does not know")


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
        shapes = {tensor: convert.tensor_shape(entry, cfg) for tensor, entry, _ in content}
        header_bytes, size = _header(shapes, dtype)
        weight_map.update(dict.fromkeys(shapes, name))
        total += size
        with open(directory / name if jax.process_index() == 0 else os.devnull, "wb") as file:
            file.write(header_bytes)
            for tensor, entry, layer in content:
                file.write(_tensor(params, tensor, entry, layer, dtype))
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _header(shapes, dtype) -> tuple[bytes, int]:
    """The start of a safetensors file whose tensors follow in this order, and their bytes.

    Written here because the library wants all of a file's tensors in memory at once.
    """
    described, stop = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        start, stop = stop, stop + int(np.prod(shape)) * dtype.itemsize
        kind = {"float32": "F32", "bfloat16": "BF16"}[dtype.name]
        described[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, stop


def _tensor(params, name: str, entry: convert.Entry, layer: int | None, dtype) -> memoryview:
    """One tensor's bytes, as a checkpoint stores them."""
    leaf = convert.leaf_of(params, entry.path)
    if layer is None:
        ours = _fetch(leaf, 0, leaf.shape[0])
    else:
        ours = _fetch(leaf, layer, layer + 1)[0]
    stored = np.ascontiguousarray(convert.to_tensor(entry, ours), dtype)
    convert.check_finite(stored, name)
    return stored.reshape(-1).view(np.uint8).data


def _fetch(leaf, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a parameter's first axis on the host.

    Taken shard by shard: asking a sharded array for its value gathers the whole array, and
    the array then keeps that copy for as long as it lives.
    """
    if not isinstance(leaf, jax.Array):
        return leaf[start:stop]
    if not leaf.is_fully_addressable:
        return multihost_utils.process_allgather(leaf[start:stop], tiled=True)
    rows = np.empty((stop - start, *leaf.shape[1:]), leaf.dtype)
    for shard in leaf.addressable_shards:
        first, last, _ = shard.index[0].indices(leaf.shape[0])
        low, high = max(first, start), min(last, stop)
        if low < high and shard.replica_id == 0:
            part = shard.data[low - first : high - first]
            rows[(slice(low - start, high - start), *shard.index[1:])] = part
    return rows


def _write_json(path, value):
    if jax.process_index():
        return
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
