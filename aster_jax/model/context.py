"""Rows too long for one device: their tokens lie over the mesh axis `context`.

A row is cut into twice as many equal stretches as the axis has devices, C, and device i
holds stretch i and stretch 2C - 1 - i: causal attention costs the more the later a token
stands, and so all devices have the same to do. The forward puts its rows into that order
once (`spread`); only attention has to know, and whoever compares the outputs with tokens.

Without a layout, or with C = 1, all of this leaves rows as they are.
"""

import functools
import math

import jax
import jax.numpy as jnp

from aster_jax.model import attention, packed_attention
from aster_jax.model.layout import Layout, constrain


def parts(layout: Layout | None) -> int:
    """Devices that a row is spread over."""
    return 1 if layout is None else layout.mesh.shape["context"]


def spread(x_BT: jax.Array, layout: Layout | None) -> jax.Array:
    """Whole rows, [B, T], in the order in which devices hold them: 0, 3, 1, 2 for C = 2.

    Raises ValueError where the rows cannot be cut.
    """
    C = parts(layout)
    if C == 1:
        return x_BT
    if x_BT.shape[1] % (2 * C):
        raise ValueError(f"rows of {x_BT.shape[1]} tokens do not divide by 2 x context={C}")
    order = [stretch for i in range(C) for stretch in (i, 2 * C - 1 - i)]
    return _reordered(x_BT, order)


def in_order(x_BT: jax.Array, layout: Layout | None) -> jax.Array:
    """`spread` undone: every device of `context` has the whole row again."""
    C = parts(layout)
    if C == 1:
        return x_BT
    order = [2 * i if i < C else 2 * (2 * C - 1 - i) + 1 for i in range(2 * C)]
    return _reordered(constrain(x_BT, layout, "whole_rows"), order)


def _reordered(x_BT, order):
    B, T = x_BT.shape
    stretches = jnp.split(x_BT, len(order), axis=1)
    return jnp.concatenate([stretches[i] for i in order], axis=1).reshape(B, T)


def flat(x_BT: jax.Array, layout: Layout | None) -> jax.Array:
    """[B, T, ...] as [B * T, ...], so that a device's tokens stay side by side on it."""
    C = parts(layout)
    B, T, *rest = x_BT.shape
    x_CBT = x_BT.reshape(B, C, T // C, *rest).swapaxes(0, 1)
    return constrain(x_CBT.reshape(B * T, *rest), layout, "tokens")


def unflat(x_R: jax.Array, shape: tuple[int, int], layout: Layout | None) -> jax.Array:
    """`flat` undone, for one number per token; `shape` is (B, T)."""
    C = parts(layout)
    B, T = shape
    return x_R.reshape(C, B, T // C).swapaxes(0, 1).reshape(B, T)


def attend(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segments_BT: jax.Array,
    layout: Layout | None,
    accum_dtype: str = "float32",
    kernel: str = "xla",
    block: int = packed_attention.BLOCK,
    until_BT: jax.Array | None = None,
) -> jax.Array:
    """Attention inside the segments of rows that `spread` has put in order; [B, T, N, H].

    Queries, keys and values as spread, `segments_BT` in the rows' own order; `kernel`, `block`
    and `until_BT` as for `attention.attend_packed`, the last only where no row is cut. Over
    `context`, every device gets the keys and values of whole rows and computes what its two
    stretches of queries see.
    """
    C = parts(layout)
    if C == 1:
        keys, values = k_BTKH.transpose(0, 2, 3, 1), v_BTKH.transpose(0, 2, 1, 3)
        return attention.attend_packed(
            q_BTNH, keys, values, segments_BT, accum_dtype, kernel=kernel, layout=layout,
            block=block, until_BS=until_BT,
        )  # fmt: skip
    if until_BT is not None:
        raise ValueError(f"rows over context={C} devices hold no shared tokens")
    # By hand over all axes: over `context` alone, the compiler would fetch all rows to all.
    heads, rows = (dict(layout.specs)[place] for place in ("heads", "whole_rows"))
    by_hand = jax.shard_map(
        functools.partial(_of_one_device, C, accum_dtype, kernel, block), mesh=layout.mesh,
        in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False,
    )  # fmt: skip
    tensor = layout.mesh.shape["tensor"]
    times = tensor // math.gcd(tensor, k_BTKH.shape[2])
    if times > 1:  # fewer key heads than devices: each of these has the one that it reads
        k_BTKH, v_BTKH = (jnp.repeat(x, times, axis=2) for x in (k_BTKH, v_BTKH))
    return by_hand(q_BTNH, k_BTKH, v_BTKH, segments_BT)


def _of_one_device(C, accum_dtype, kernel, block, q_BTNH, k_BTKH, v_BTKH, segments_BS):
    keys = _whole(k_BTKH).transpose(0, 2, 3, 1)
    values = _whole(v_BTKH).transpose(0, 2, 1, 3)
    early, late = jnp.split(q_BTNH, 2, axis=1)
    length, half = early.shape[1], C * early.shape[1]
    place = jax.lax.axis_index("context")
    # No early stretch sees anything of a row's second half.
    seen = (keys[..., :half], values[:, :, :half], segments_BS[:, :half])
    early = attention.attend_packed(early, *seen, accum_dtype, place * length, kernel, block=block)
    seen = (keys, values, segments_BS)
    place = (2 * C - 1 - place) * length
    late = attention.attend_packed(late, *seen, accum_dtype, place, kernel, block=block)
    return jnp.concatenate([early, late], axis=1)


def _whole(x_BTKH):
    """A device's two stretches -> those of all devices, in the row's order."""
    early, late = jnp.split(x_BTKH, 2, axis=1)
    early, late = (jax.lax.all_gather(x, "context", axis=1) for x in (early, late))
    x_BCTKH = jnp.concatenate([early, late[:, ::-1]], axis=1)
    B, C2, T, K, H = x_BCTKH.shape
    return x_BCTKH.reshape(B, C2 * T, K, H)
