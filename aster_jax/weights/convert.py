"""One name table between our parameters and the tensors of checkpoints, both ways.

Used by `source` (read) and `export` (write). Checkpoints keep one matrix per layer as
[out, in]; we stack layers and keep [in, out] with heads as an axis of their own.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from aster_jax.errors import InputError
from aster_jax.model import config

# How a checkpoint's matrix becomes ours: unchanged; [a, b] -> [b, a];
# [heads * size, D] -> [D, heads, size]; [D, heads * size] -> [heads, size, D].
Layout = Literal["same", "swap", "heads_out", "heads_in"]
Read = Callable[[str, slice, slice], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A parameter: its path in the tree, and its names in Hugging Face and GGUF files.

    Names with `{}` stand for one tensor per layer. `only` names the config property that
    a model must have for the parameter to exist.
    """

    path: str
    hf: str
    gguf: str
    layout: Layout
    only: Literal["", "qk_norm", "untied"] = ""

    @property
    def stacked(self) -> bool:
        """Whether our array has a leading layer axis."""
        return "{}" in self.hf


EMBED = Entry("embed/w", "model.embed_tokens.weight", "token_embd.weight", "same")
UNEMBED = Entry("unembed/w", "lm_head.weight", "output.weight", "swap", "untied")
TABLE = (
    EMBED,
    Entry("layers/attn_norm/scale", "model.layers.{}.input_layernorm.weight",
          "blk.{}.attn_norm.weight", "same"),
    Entry("layers/q/w", "model.layers.{}.self_attn.q_proj.weight",
          "blk.{}.attn_q.weight", "heads_out"),
    Entry("layers/k/w", "model.layers.{}.self_attn.k_proj.weight",
          "blk.{}.attn_k.weight", "heads_out"),
    Entry("layers/v/w", "model.layers.{}.self_attn.v_proj.weight",
          "blk.{}.attn_v.weight", "heads_out"),
    Entry("layers/q_norm/scale", "model.layers.{}.self_attn.q_norm.weight",
          "blk.{}.attn_q_norm.weight", "same", "qk_norm"),
    Entry("layers/k_norm/scale", "model.layers.{}.self_attn.k_norm.weight",
          "blk.{}.attn_k_norm.weight", "same", "qk_norm"),
    Entry("layers/o/w", "model.layers.{}.self_attn.o_proj.weight",
          "blk.{}.attn_output.weight", "heads_in"),
    Entry("layers/mlp_norm/scale", "model.layers.{}.post_attention_layernorm.weight",
          "blk.{}.ffn_norm.weight", "same"),
    Entry("layers/gate/w", "model.layers.{}.mlp.gate_proj.weight",
          "blk.{}.ffn_gate.weight", "swap"),
    Entry("layers/up/w", "model.layers.{}.mlp.up_proj.weight",
          "blk.{}.ffn_up.weight", "swap"),
    Entry("layers/down/w", "model.layers.{}.mlp.down_proj.weight",
          "blk.{}.ffn_down.weight", "swap"),
    Entry("final_norm/scale", "model.norm.weight", "output_norm.weight", "same"),
    UNEMBED,
)  # fmt: skip


# What older releases stored beside the weights: rotary tables and masks, which are computed
# from the config. Every reader skips them. A bias of a projection is none of these.
_TABLES = re.compile(
    r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|original_inv_freq|cos_cached|"
    r"sin_cached)|blk\.\d+\.attn_rot_embd\.weight"
)
_MASKS = re.compile(
    r"(model\.)?(layers\.\d+\.(self_attn|attn)\.(masked_bias|bias|mask|causal_mask|attention_mask)"
    r"|causal_mask|attention_mask|(embed_tokens\.)?position_ids)"
)


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a checkpoint's tensor is a buffer without which the model is the same.

    Masks are told from parameters by their shape: one value, or square in the last two axes.
    """
    square = len(shape) >= 2 and shape[-1] == shape[-2] and math.prod(shape[:-2]) == 1
    mask = square or math.prod(shape) == 1 or name.endswith("position_ids")
    return bool(_TABLES.fullmatch(name) or (mask and _MASKS.fullmatch(name)))


def entries(cfg: config.ModelConfig) -> list[Entry]:
    """The table's rows that a model of these sizes has."""
    exists = {"": True, "qk_norm": cfg.qk_norm, "untied": not cfg.tie_embeddings}
    return [e for e in TABLE if exists[e.only]]


def param_shape(entry: Entry, cfg: config.ModelConfig) -> tuple[int, ...]:
    """Our shape of a parameter, layer axis included."""
    V, D, F = cfg.vocab_size, cfg.d_model, cfg.d_ff
    N, K, H = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
    shape = {
        "embed/w": (V, D), "unembed/w": (D, V),
        "layers/q/w": (D, N, H), "layers/k/w": (D, K, H), "layers/v/w": (D, K, H),
        "layers/o/w": (N, H, D), "layers/q_norm/scale": (H,), "layers/k_norm/scale": (H,),
        "layers/gate/w": (D, F), "layers/up/w": (D, F), "layers/down/w": (F, D),
        "layers/attn_norm/scale": (D,), "layers/mlp_norm/scale": (D,),
        "final_norm/scale": (D,),
    }[entry.path]  # fmt: skip
    return (cfg.num_layers, *shape) if entry.stacked else shape


def tensor_shape(entry: Entry, cfg: config.ModelConfig) -> tuple[int, ...]:
    """The shape of the tensor (one layer's, if stacked) in a checkpoint."""
    shape = param_shape(entry, cfg)[int(entry.stacked) :]
    if entry.layout == "same":
        return shape
    if entry.layout == "swap":
        return shape[::-1]
    if entry.layout == "heads_out":
        return (math.prod(shape[1:]), shape[0])
    return (shape[-1], math.prod(shape[:-1]))


def tensor_names(entry: Entry, cfg: config.ModelConfig, kind: str) -> list[str]:
    """The names in a checkpoint of kind "hf" or "gguf": one per layer, or just one."""
    pattern = entry.hf if kind == "hf" else entry.gguf
    return [pattern.format(i) for i in range(cfg.num_layers)] if entry.stacked else [pattern]


def check_tensors(found: Mapping[str, tuple], cfg: config.ModelConfig, kind: str, origin: str):
    """Raise ValueError naming every missing, extra or mis-shaped tensor of a checkpoint."""
    if cfg.num_layers > len(found):  # before anything counts up to it
        raise InputError(f"{origin} does not fit its config: {cfg.num_layers} layers, and "
                         f"{len(found)} tensors in all")  # fmt: skip
    expected = {
        name: tensor_shape(e, cfg) for e in entries(cfg) for name in tensor_names(e, cfg, kind)
    }
    wrong = [f"missing {n}" for n in expected if n not in found]
    wrong += [f"extra {n}" for n in found if n not in expected]
    wrong += [
        f"{n} has shape {tuple(found[n])}, expected {shape}"
        for n, shape in expected.items()
        if n in found and tuple(found[n]) != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise InputError(f"{origin} does not fit its config: {'; '.join(wrong[:8])}{more}")


def read_block(entry: Entry, cfg, kind: str, read: Read, index, dtype, permuted=False):
    """The part `index` (a tuple of slices) of one of our parameters, from its tensors.

    Only what the part needs is read, one layer at a time. `permuted`: q and k rows lie in
    the interleaved order that llama.cpp uses for its llama architecture. Raises ValueError
    naming a tensor that holds a NaN or an infinity, or has one in this type.
    """
    shape = param_shape(entry, cfg)
    index = [slice(*s.indices(n)[:2]) for s, n in zip(index, shape, strict=True)]
    names = tensor_names(entry, cfg, kind)
    if not entry.stacked:
        out = _read_one(entry, shape, read, names[0], index, permuted).astype(dtype)
        check_finite(out, names[0])
        return out
    out = np.empty([s.stop - s.start for s in index], dtype)
    for row, name in enumerate(names[index[0]]):
        out[row] = _read_one(entry, shape[1:], read, name, index[1:], permuted)
        check_finite(out[row], name)
    return out


def check_finite(array: np.ndarray, name: str) -> None:
    """Raise ValueError if a tensor holds a NaN or an infinity: nothing can come of it.

    Looks at a bounded part at a time, so that no second copy of a large tensor is made.
    """
    if not array.size:
        return
    step = max(1, (1 << 20) * len(array) // array.size)
    for start in range(0, len(array), step):
        if not np.isfinite(array[start : start + step]).all():
            raise InputError(
                f"{name} is not finite: it holds a NaN or an infinity as {array.dtype}; the "
                "model is damaged or its training diverged"
            )


def _read_one(entry, shape, read, name, index, permuted):
    if entry.layout == "same":
        columns = index[1] if len(index) > 1 else slice(None)
        return read(name, index[0], columns)
    if entry.layout == "swap":
        return read(name, index[1], index[0]).T
    if entry.layout == "heads_out":
        width, heads, size = index
        H = shape[2]
        block = read(name, slice(heads.start * H, heads.stop * H), width)
        block = block.reshape(-1, H, block.shape[-1])
        if permuted and entry.path in ("layers/q/w", "layers/k/w"):
            block = block.reshape(-1, H // 2, 2, block.shape[-1]).swapaxes(1, 2)
            block = block.reshape(-1, H, block.shape[-1])
        return block.transpose(2, 0, 1)[:, :, size]
    heads, size, width = index
    H = shape[1]
    block = read(name, width, slice(heads.start * H, heads.stop * H))
    return block.reshape(block.shape[0], -1, H).transpose(1, 2, 0)[:, size]


def to_tensor(entry: Entry, array: np.ndarray) -> np.ndarray:
    """One of our (unstacked) arrays in the layout of a checkpoint."""
    if entry.layout == "same":
        return array
    if entry.layout == "swap":
        return array.T
    if entry.layout == "heads_out":
        return array.transpose(1, 2, 0).reshape(-1, array.shape[0])
    return array.transpose(2, 0, 1).reshape(array.shape[-1], -1)


def tree_of(leaves: Mapping[str, object]) -> dict:
    """{"layers/q/w": x} as nested dicts."""
    tree = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def leaf_of(tree: Mapping, path: str):
    """The leaf of nested dicts at "layers/q/w"."""
    for part in path.split("/"):
        if part not in tree:
            raise InputError(f"the parameters have no {path}")
        tree = tree[part]
    return tree
