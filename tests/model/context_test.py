"""Rows over several devices: the order by hand, what devices hold, and what is refused.

That no number depends on it is shown in `tests/train/invariance_test.py`.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax import mesh as meshes
from aster_jax.model import attention, context, logprobs, packed_attention
from aster_jax.train import step


def layout(tiny, C):
    """Of a mesh with C devices to a row."""
    return meshes.lay_out(tiny, meshes.build(1, 8 // C, 1, context=C)).layout


def test_stretches_by_hand(tiny):
    row = jnp.arange(8)[None]
    spread = context.spread(row, layout(tiny, 2))
    np.testing.assert_array_equal(spread, [[0, 1, 6, 7, 2, 3, 4, 5]])  # the second device's: 2-5
    four = context.spread(row, layout(tiny, 4))
    np.testing.assert_array_equal(four, [[0, 7, 1, 6, 2, 5, 3, 4]])
    assert context.spread(row, None) is row and context.in_order(row, None) is row
    assert context.spread(row, layout(tiny, 1)) is row


@pytest.mark.parametrize("C", [1, 2, 4, 8])
def test_what_is_spread_comes_back(tiny, C):
    rows, of = jnp.arange(8 * 48).reshape(8, 48), layout(tiny, C)
    flat = context.flat(context.spread(rows, of), of)
    assert flat.shape == (8 * 48,)
    back = context.in_order(context.unflat(flat, (8, 48), of), of)
    np.testing.assert_array_equal(back, rows)


def test_rows_that_cannot_be_cut_are_refused(tiny):
    with pytest.raises(ValueError, match="rows of 12 tokens do not divide by 2 x context=4"):
        context.spread(jnp.zeros((2, 12)), layout(tiny, 4))


@pytest.mark.parametrize("T", [4, 6])
def test_a_stretch_gets_what_all_queries_at_once_get(T):
    """Where it begins is traced. What padding gets is nobody's business."""
    keys = jax.random.split(jax.random.key(0), 3)
    q_BTNH = jax.random.normal(keys[0], (2, 18, 4, 8))
    k_BKHS, v_BKSH = (jax.random.normal(keys[i], (2, 2, *s)) for i, s in ((1, (8, 18)), (2, (18, 8))))
    segments_BS = jnp.stack([1 + jnp.arange(18) // 5, jnp.where(jnp.arange(18) < 15, 1, 0)])
    mask_BTS = attention.causal(packed_attention.ends(segments_BS))
    expected = attention.attend(q_BTNH, k_BKHS, v_BKSH, mask_BTS)
    some = jax.jit(lambda q, first: attention.attend_packed(q, k_BKHS, v_BKSH, segments_BS, first=first))
    for first in range(0, 18 - T, 3):
        found = some(q_BTNH[:, first : first + T], first)
        real = (segments_BS[:, first : first + T] > 0)[..., None, None]
        np.testing.assert_allclose(found * real, expected[:, first : first + T] * real, atol=1e-6)


def test_no_device_computes_or_holds_more_than_its_part_of_a_row(tiny):
    """A row over eight devices, as the compiler partitions it: only keys and values are whole."""
    mesh = meshes.build(1, 1, 1, context=8)
    cfg = meshes.lay_out(tiny, mesh)
    ints = jax.ShapeDtypeStruct((1, 4096), jnp.int32, sharding=meshes.replicated(mesh))
    params = step.abstract_params(tiny, mesh)
    text = logprobs.score.lower(params, ints, ints, ints, cfg=cfg).compile().as_text()
    products = re.findall(r"= f32\[([\d,]+)\]\S* dot\(", text)
    mine = 4096 // 8  # tokens
    block = packed_attention.CPU_BLOCK  # queries, of the two query heads of a key head each
    assert all(f"{mine}," in p or f"2,{2 * block}," in p for p in products), products
    # Scores are made in blocks of keys, never of a whole row.
    assert f"2,{2 * block},{block}" in products and not [p for p in products if "4096" in p]
    fetched = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", text)
    assert not [s for s in fetched if "4096,32" in s], fetched
