"""The SFT loss: by hand, packed against separate, and what its metrics mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax import types
from aster_jax.data import packing
from aster_jax.sft import loss

grad = jax.jit(jax.value_and_grad(loss.loss_fn, has_aux=True), static_argnums=1)


def demos(sizes):
    rng = np.random.default_rng(1)
    return [
        types.Demo(str(i), "f", tuple(rng.integers(0, 48, n).tolist()), (0, 0) + (1,) * (n - 2), 1)
        for i, n in enumerate(sizes)
    ]


def batch_of(chosen, layout, row_tokens):
    sequences = [{"tokens": d.tokens, "mask": d.loss_mask} for d in chosen]
    rows = packing.layout(sequences, layout, row_tokens)
    batch, used = packing.sft_batch(rows, rows["tokens"].shape[0])
    assert used == 1
    return jax.tree.map(lambda x: x[0], batch)


def test_a_model_that_knows_nothing_pays_log_v_per_token(tiny, params):
    blank = {**params, "embed": {"w": jnp.zeros_like(params["embed"]["w"])}}
    (value, metrics), _ = grad(blank, tiny, batch_of(demos([5, 4, 7]), [[0, 1], [2]], 9))
    assert float(value) == pytest.approx(np.log(48), rel=1e-6)
    assert float(metrics["entropy"]) == pytest.approx(np.log(48), rel=1e-6)
    # 3 + 2 + 5 tokens after two prompt tokens each.
    assert float(metrics["tokens"]) == 10


def test_packed_rows_equal_separate_rows(tiny, params):
    chosen = demos([5, 4, 7])
    (packed, _), packed_grads = grad(params, tiny, batch_of(chosen, [[0, 1], [2]], 9))
    (separate, _), grads = grad(params, tiny, batch_of(chosen, [[0], [1], [2]], 7))
    assert float(packed) == pytest.approx(float(separate), rel=1e-5)
    for a, b in zip(jax.tree.leaves(packed_grads), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * (float(jnp.abs(b).max()) + 1e-3))


def test_tokens_outside_the_mask_are_not_trained_on(tiny, params):
    """The loss's last prompt token may change only through what follows it."""
    first = demos([6])[0]
    cut = types.Demo("0", "f", first.tokens, (0, 0, 1, 0, 0, 0), 1)
    (value, metrics), _ = grad(params, tiny, batch_of([cut], [[0]], 6))
    other = types.Demo("0", "f", (*first.tokens[:3], 1, 2, 3), (0, 0, 1, 0, 0, 0), 1)
    (same, _), _ = grad(params, tiny, batch_of([other], [[0]], 6))
    assert float(value) == pytest.approx(float(same), rel=1e-5)
    assert float(metrics["tokens"]) == 1
