"""One forward, many ways in: each must give what the plain full sequence gives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.model import cache as kv
from aster_jax.model import config, transformer

forward = jax.jit(transformer.forward, static_argnames="cfg")


def ids(rows, length, seed=0):
    return jax.random.randint(jax.random.key(seed), (rows, length), 0, 48)


def places(rows, length):
    return jnp.broadcast_to(jnp.arange(length)[None], (rows, length))


def scattered(rows, pages):
    """A table that gives each row some pages of the pool, in no order."""
    return jnp.arange(rows * pages)[::-1].reshape(pages, rows).T


def full(params, cfg, tokens):
    return forward(params, cfg, tokens, places(*tokens.shape))[0]


@pytest.mark.parametrize("position", [0, 3, 6])
def test_no_information_comes_from_the_future(tiny, params, position):
    tokens = jnp.asarray([[11, 12, 13, 14, 15, 16, 17]])

    def read(w_VD):
        moved = {**params, "embed": {"w": w_VD}}
        return transformer.forward(moved, tiny, tokens, places(1, 7))[0][0, position].sum()

    felt = np.abs(jax.jit(jax.grad(read))(params["embed"]["w"])).sum(-1)
    assert (felt[11 : 12 + position] > 0).all()
    assert felt[12 + position :].sum() == 0 and felt[:11].sum() == 0


@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 8, 12])
def test_chunks_through_the_cache_equal_the_full_forward(tiny, params, chunk):
    """Rows of 9, 8 and 5 tokens, in chunks that end before, at and after every edge."""
    tokens = ids(3, 9)
    lengths = jnp.asarray([9, 8, 5])
    expected = full(params, tiny, tokens)
    cache, table = kv.init(tiny, 9, 4, "float32"), scattered(3, 3)
    for start in range(0, 9, chunk):
        order = start + jnp.arange(chunk)[None]
        inside = order < lengths[:, None]
        piece = jnp.where(inside, jnp.pad(tokens, ((0, 0), (0, chunk)))[:, start : start + chunk], 47)
        positions = jnp.where(inside, order, 12)
        hidden, cache = forward(params, tiny, piece, positions, cache=cache, table_BW=table)
        for row in range(3):
            n = int(inside[row].sum())
            np.testing.assert_allclose(
                hidden[row, :n], expected[row, start : start + n], atol=1e-5
            )


@pytest.mark.parametrize("bucket", [4, 8])
def test_decoding_continues_rows_of_every_length_around_the_edges(tiny, params, bucket):
    """One batch, prompts that end before, at and after each edge; rows of 12 tokens."""
    tokens, starts = ids(8, 12, seed=3), jnp.asarray([1, 3, 4, 5, 7, 8, 9, 11])
    expected, capacity = full(params, tiny, tokens), 12
    cache, table = kv.init(tiny, 48, 2, "float32"), scattered(8, 6)
    for start in range(0, 11, bucket):
        order = start + jnp.arange(bucket)[None]
        inside = order < starts[:, None]
        piece = jnp.where(inside, jnp.pad(tokens, ((0, 0), (0, 4)))[:, start : start + bucket], 47)
        places_BT = jnp.where(inside, order, capacity)
        _, cache = forward(params, tiny, piece, places_BT, cache=cache, table_BW=table)
    rows = jnp.arange(8)
    for step in range(11):
        at = starts + step  # of a row that is complete: padding
        one = tokens[rows, at][:, None]
        hidden, cache = forward(params, tiny, one, at[:, None], cache=cache, table_BW=table)
        for row in np.flatnonzero(at < capacity):
            np.testing.assert_allclose(hidden[row, 0], expected[row, at[row]], atol=1e-5)


def test_padding_beyond_a_full_cache_overwrites_nothing(tiny, params):
    tokens = ids(1, 6, seed=4)
    cache = kv.init(tiny, 2, 3, "float32")
    run = functools.partial(forward, table_BW=scattered(1, 2))
    _, filled = run(params, tiny, tokens, places(1, 6), cache=cache)
    _, padded = run(params, tiny, tokens, jnp.full((1, 6), 6), cache=filled)
    for before, after in zip(jax.tree.leaves(filled), jax.tree.leaves(padded), strict=True):
        np.testing.assert_array_equal(before, after)
    # And what lies beyond a row's length in a reused cache is never seen.
    dirty = jax.tree.map(lambda x: x + 50.0, cache)
    clean_hidden, _ = run(params, tiny, tokens[:, :4], places(1, 4), cache=cache)
    dirty_hidden, _ = run(params, tiny, tokens[:, :4], places(1, 4), cache=dirty)
    np.testing.assert_array_equal(clean_hidden, dirty_hidden)


def test_packed_segments_equal_separate_rows(tiny, params):
    first, second = ids(1, 4, seed=5), ids(1, 3, seed=6)
    packed = jnp.concatenate([first, second, jnp.zeros((1, 2), jnp.int32)], axis=1)
    segments = jnp.asarray([[1, 1, 1, 1, 2, 2, 2, 0, 0]])
    positions = jnp.asarray([[0, 1, 2, 3, 0, 1, 2, 0, 0]])
    hidden, cache = forward(params, tiny, packed, positions, segments)
    assert cache is None
    np.testing.assert_allclose(hidden[0, :4], full(params, tiny, first)[0], atol=1e-5)
    np.testing.assert_allclose(hidden[0, 4:7], full(params, tiny, second)[0], atol=1e-5)


def test_remat_inside_the_scan_has_no_barriers(tiny, params):
    """They keep XLA from undoing remat, which it cannot do over a scan anyway, and cost time."""
    cfg = dataclasses.replace(tiny, remat=True)

    def loss(p):
        return jnp.sum(transformer.forward(p, cfg, ids(2, 6), places(2, 6))[0])

    scanned, unrolled = params, transformer.for_decoding(params)
    assert "prevent_cse=False" in str(jax.make_jaxpr(loss)(scanned))
    assert "prevent_cse=True" in str(jax.make_jaxpr(loss)(unrolled))


def test_remat_and_the_form_for_decoding_change_nothing(tiny, params):
    tokens = ids(2, 6)

    def loss(p, cfg):
        return jnp.sum(jnp.sin(transformer.forward(p, cfg, tokens, places(2, 6))[0]))

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    value, grads = grad(params, tiny)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))
    products = []
    for keep in (False, True):
        cfg = dataclasses.replace(tiny, remat=True, keep_products=keep)
        again, regrads = grad(params, cfg)
        products.append(str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(params, cfg)).count("= dot_general"))
        assert float(value) == pytest.approx(float(again), rel=1e-6)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(regrads), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * largest)
    # v, o, gate, up and the attention's result; the norms of q and k want what they were before,
    # and nothing `down`'s.
    assert products[0] - products[1] == 5, products
    unrolled = transformer.for_decoding(params)
    assert isinstance(unrolled["layers"], tuple) and len(unrolled["layers"]) == 2
    _, unrolled_grads = grad(unrolled, tiny)
    pairs = zip(
        jax.tree.leaves(unrolled_grads), jax.tree.leaves(transformer.for_decoding(grads)), strict=True
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=1e-5 * largest)
    np.testing.assert_allclose(
        full(unrolled, tiny, tokens), full(params, tiny, tokens), atol=1e-5
    )


def test_rows_do_not_influence_each_other(tiny, params):
    tokens = ids(3, 6)
    order = jnp.asarray([2, 0, 1])
    np.testing.assert_allclose(
        full(params, tiny, tokens[order]), full(params, tiny, tokens)[order], atol=1e-5
    )


@pytest.mark.parametrize(
    "name, millions, theta",
    [
        ("qwen3_0p6b", 596.0, 1e6),
        ("qwen3_1p7b", 1720.6, 1e6),
        ("qwen3_4b", 4022.5, 1e6),
        ("qwen3_4b_thinking_2507", 4022.5, 5e6),
    ],
)
def test_published_sizes_without_allocating(name, millions, theta):
    cfg = config.PRESETS[name]
    assert round(transformer.count_params(cfg) / 1e6, 1) == millions
    assert cfg.rope_theta == theta
    shapes = transformer.abstract_params(cfg)
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    run = functools.partial(transformer.forward, cfg=cfg)
    hidden, _ = jax.eval_shape(
        lambda p, x: run(p, tokens_BT=x, positions_BT=x), shapes, tokens
    )
    assert hidden.shape == (2, 16, cfg.d_model) and hidden.dtype == jnp.bfloat16
    scores = jax.eval_shape(lambda p, h: transformer.logits(p, cfg, h), shapes, hidden)
    assert scores.shape == (2, 16, 151_936) and scores.dtype == jnp.float32


def test_parameters_by_hand(tiny):
    # embed 48x32; per layer q,o 32x4x16 each, k,v 32x2x16 each, three 32x48, norms 32+32+16+16.
    layer = 2 * 32 * 64 + 2 * 32 * 32 + 3 * 32 * 48 + 32 + 32 + 16 + 16
    assert transformer.count_params(tiny) == 48 * 32 + 2 * layer + 32
    llama = dataclasses.replace(tiny, qk_norm=False, tie_embeddings=False)
    assert transformer.count_params(llama) == 48 * 32 * 2 + 2 * (layer - 32) + 32
    made = transformer.abstract_params(llama)
    assert set(made) == {"embed", "layers", "final_norm", "unembed"}
    assert made["layers"]["o"]["w"].shape == (2, 4, 16, 32)
    assert "q_norm" not in made["layers"]


def test_layers_start_different(tiny, params):
    q = params["layers"]["q"]["w"]
    assert float(jnp.abs(q[0] - q[1]).max()) > 0.1
    k, v = params["layers"]["k"]["w"], params["layers"]["v"]["w"]
    assert float(jnp.abs(k - v).max()) > 0.1


def test_untied_scores_use_their_own_table(tiny):
    cfg = dataclasses.replace(tiny, tie_embeddings=False)
    made = jax.jit(transformer.init_params, static_argnums=0)(cfg, jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (1, 2, 32))
    scores = transformer.logits(made, cfg, hidden)
    np.testing.assert_allclose(scores, hidden @ made["unembed"]["w"], atol=1e-5)
    tied = transformer.logits(made, dataclasses.replace(cfg, tie_embeddings=True), hidden)
    np.testing.assert_allclose(tied, hidden @ made["embed"]["w"].T, atol=1e-5)
    as_decoded = transformer.logits(transformer.for_decoding(made), cfg, hidden)
    np.testing.assert_allclose(as_decoded, scores, atol=1e-5)


def test_bfloat16_weights_stay_close_to_float32(tiny, params):
    tokens = ids(2, 6)
    half = full(params, dataclasses.replace(tiny, compute_dtype="bfloat16"), tokens)
    assert half.dtype == jnp.bfloat16
    exact = full(params, tiny, tokens)
    error = jnp.abs(half.astype(jnp.float32) - exact).max() / jnp.abs(exact).max()
    assert 1e-5 < float(error) < 0.1
