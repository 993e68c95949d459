"""Training attention over packed rows: every way to compute it equals all scores at once.

The kernels are interpreted, since no device here has them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from aster_jax import mesh as meshes
from aster_jax.data import prefixes
from aster_jax.model import attention, gpu_packed_attention, kernels, packed_attention
from aster_jax.model import tpu_packed_attention

S, K, H = 384, 2, 16
# Largest distance from the reference over the largest number: a few roundings.
CLOSE = {"float32": 5e-6, "bfloat16": 2e-2}


def draw(segments_BS, groups=2, size=H, dtype=jnp.float32, seed=0):
    """Random (q_BTNH, k_BKHS, v_BKSH), and weights for a sum that leave padding out."""
    B, S = segments_BS.shape
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = (B, S, K * groups, size), (B, K, size, S), (B, K, S, size), (B, S, K * groups, size)
    *qkv, weights = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))
    weights = jnp.where((segments_BS > 0)[:, :, None, None], weights, 0)
    return [x.astype(dtype) for x in qkv], weights


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(attend, qkv, weights, *args):
    """(result where it is weighed, gradients of the weighted sum)."""

    def loss(qkv):
        out = attend(*qkv, *args)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(qkv)
    return out, *gradients


def dense(q_BTNH, k_BKHS, v_BKSH, segments_BS, first=0):
    """All scores at once."""
    order_T = first + jnp.arange(q_BTNH.shape[1])
    mask_BTS = attention.causal(packed_attention.ends(segments_BS), order_T)
    return attention.attend(q_BTNH, k_BKHS, v_BKSH, mask_BTS)


def in_blocks(blocks, q_BTNH, k_BKHS, v_BKSH, segments_BS, first=0):
    """`packed_attention` with blocks of a given size."""
    until_BS, first = packed_attention.ends(segments_BS), jnp.int32(first)
    return packed_attention.attend("float32", blocks, q_BTNH, k_BKHS, v_BKSH, until_BS, first)


def check(found, expected, segments_BT):
    """Results of tokens, and all gradients; what padding gives is finite."""
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in found)
    real = np.asarray(segments_BT > 0)
    pairs = [(found[0][real], expected[0][real]), *zip(found[1:], expected[1:], strict=True)]
    for a, b in pairs:
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        bound = CLOSE[found[0].dtype.name] * max(np.abs(b).max(initial=0), 1)
        np.testing.assert_allclose(a, b, atol=bound, rtol=0)


def filled(lengths, S=S):
    """The segments of one row of these lengths, cut or filled with padding to S."""
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)[:S]
    return np.pad(ids, (0, S - len(ids))).astype(np.int32)


ROW = st.lists(st.integers(1, S), max_size=12).map(filled)
BLOCKS = ((64, 128), (128, 64))


@settings(max_examples=12, deadline=None)
@given(
    st.tuples(ROW, ROW), st.sampled_from(BLOCKS), st.sampled_from((S, 100)), st.integers(0, S),
    st.sampled_from((1, 3)),
)  # fmt: skip
def test_blocks_change_neither_result_nor_gradients(rows, blocks, T, first, groups):
    """Any layout of the rows, blocks, groups of heads, and part of the row's queries."""
    segments, first = jnp.asarray(np.stack(rows)), min(first, S - T)
    (q, k, v), weights = draw(segments, groups)
    part = slice(first, first + T)
    args = [q[:, part], k, v], weights[:, part], segments, jnp.int32(first)
    found = with_gradients(functools.partial(in_blocks, blocks), *args)
    check(found, with_gradients(dense, *args), segments[:, part])
    assert not np.asarray(found[0])[np.asarray(segments[:, part] == 0)].any()


@pytest.mark.parametrize("seed, T, first", [(0, S, 0), (1, S, 0), (2, 100, 37)])
def test_blocks_of_tokens_that_segments_share(seed, T, first):
    """Random trees: a sequence parts from the one before at any of its tokens."""
    rng, sequences = np.random.default_rng(seed), [[1] * 150]
    while sum(map(len, sequences)) < 700:
        at = int(rng.integers(1, len(sequences[-1]) + 1))
        sequences.append([*sequences[-1][:at], len(sequences) + 1, *[1] * int(rng.integers(0, 90))])
    named = [{"tokens": tokens} for tokens in sequences]
    rows = prefixes.pack(sequences, S)
    arrays = prefixes.layout(named, rows[:2], S)
    assert np.count_nonzero(arrays["members"]) > np.count_nonzero(arrays["segments"])
    segments, until = (jnp.asarray(arrays[name]) for name in ("segments", "until"))
    (q, k, v), weights = draw(segments)
    part = slice(first, first + T)

    def blocks(q, k, v):
        return packed_attention.attend("float32", (64, 128), q, k, v, until, jnp.int32(first))

    def whole(q, k, v):
        return attention.attend(q, k, v, attention.causal(until, first + jnp.arange(T)))

    args = [q[:, part], k, v], weights[:, part]
    check(with_gradients(blocks, *args), with_gradients(whole, *args), segments[:, part])
    door = functools.partial(attention.attend_packed, segments_BS=segments, first=first, until_BS=until)
    check(with_gradients(door, *args), with_gradients(whole, *args), segments[:, part])


def test_kernels_that_are_told_of_segments_alone_refuse_shared_tokens():
    segments = jnp.asarray(np.stack([filled([S])]))
    (q, k, v), _ = draw(segments)
    with pytest.raises(ValueError, match="the gpu kernel is told of segments alone"):
        attention.attend_packed(q, k, v, segments, kernel="gpu", until_BS=packed_attention.ends(segments))


TILES = gpu_packed_attention.Tiles(
    gpu_packed_attention.Tile(64, 32, 4, 1), gpu_packed_attention.Tile(32, 64, 4, 1),
    gpu_packed_attention.Tile(32, 128, 4, 1),
)  # fmt: skip
LAYOUTS = (
    (filled([100, 200, 84]), filled([33, 267])),
    (filled([S]), filled([])),
    (filled([1] * 50 + [200]), filled([128, 128, 128])),
)


def by_triton(q_BTNH, k_BKHS, v_BKSH, segments_BS, first=0):
    """The kernels of `gpu_packed_attention` in small tiles."""
    start_BT, first = packed_attention.starts(segments_BS), jnp.int32(first)
    start_BT = jax.lax.dynamic_slice_in_dim(start_BT, first, q_BTNH.shape[1], axis=1)
    return gpu_packed_attention.attend(
        TILES, True, q_BTNH, k_BKHS.transpose(0, 3, 1, 2), v_BKSH.transpose(0, 2, 1, 3), start_BT, first
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=("mixed", "whole and empty", "many"))
@pytest.mark.parametrize("first, dtype", [(0, "float32"), (128, "float32"), (0, "bfloat16")])
def test_the_gpu_kernels_equal_the_reference(layout, first, dtype):
    segments = jnp.asarray(np.stack(layout))
    (q, k, v), weights = draw(segments, 3, dtype=dtype)
    args = [q[:, first:], k, v], weights[:, first:], segments, jnp.int32(first)
    found = with_gradients(by_triton, *args)
    wide = [x.astype(jnp.float32) for x in args[0]]
    check(found, with_gradients(dense, wide, *args[1:]), segments[:, first:])


def by_splash(q_BTNH, k_BKHS, v_BKSH, segments_BS, first=0):
    """The kernel of `tpu_packed_attention`."""
    start_BS, first = packed_attention.starts(segments_BS), jnp.int32(first)
    start_BT = jax.lax.dynamic_slice_in_dim(start_BS, first, q_BTNH.shape[1], axis=1)
    return tpu_packed_attention.attend(True, q_BTNH, k_BKHS, v_BKSH, start_BS, start_BT, first)


@pytest.mark.parametrize("layout", LAYOUTS, ids=("mixed", "whole and empty", "many"))
@pytest.mark.parametrize("first, T", [(0, S), (100, 256)])
def test_the_tpu_kernel_equals_the_reference(layout, first, T):
    segments, part = jnp.asarray(np.stack(layout)), slice(first, first + T)
    (q, k, v), weights = draw(segments, size=128)
    args = [q[:, part], k, v], weights[:, part], segments, jnp.int32(first)
    check(with_gradients(by_splash, *args), with_gradients(dense, *args), segments[:, part])


def test_blocks_of_other_segments_are_never_read():
    """Not-a-numbers in them would show: a masked one times zero is one still."""
    segments = jnp.asarray(np.stack([filled([128, 128, 128])]))
    (q, k, v), weights = draw(segments)
    v = v.at[:, :, :128].set(jnp.nan)
    out, *gradients = with_gradients(functools.partial(in_blocks, (64, 128)), [q, k, v], weights, segments)
    assert np.isnan(out[:, :128]).any() and np.isfinite(out[:, 128:]).all()
    assert np.isfinite(gradients[0][:, 128:]).all()


def test_any_length_goes_through_the_one_door():
    """Rows that no block divides, and short ones, which are computed whole."""
    for T in (5, 129, 300):
        segments = jnp.asarray(np.stack([filled([T // 2, T // 3], T), filled([T], T)]))
        qkv, weights = draw(segments)
        check(with_gradients(attention.attend_packed, qkv, weights, segments),
              with_gradients(dense, qkv, weights, segments), segments)  # fmt: skip


@pytest.mark.parametrize("block", [100, 192, 200, 300])
def test_a_block_that_divides_nothing_gives_the_same(block):
    segments = jnp.asarray(np.stack([filled([130, 210]), filled([1, S - 1])]))
    qkv, weights = draw(segments)
    run = functools.partial(attention.attend_packed, block=block)
    check(with_gradients(run, qkv, weights, segments), with_gradients(dense, qkv, weights, segments),
          segments)  # fmt: skip


@pytest.mark.parametrize("kernel", ["xla", "whole"])
@pytest.mark.parametrize("T", [24, 300])
def test_padding_has_no_result_and_no_gradient_even_where_it_is_asked_for(T, kernel):
    """Long and short rows alike; and a number that comes back is another segment."""
    ids = np.stack([filled([T // 3, T // 3], T), [1] * (T // 2) + [2] * (T - T // 2 - 4) + [1, 1, 0, 0]])
    segments = jnp.asarray(ids, jnp.int32)
    qkv, _ = draw(segments)
    run = functools.partial(attention.attend_packed, kernel=kernel)
    everywhere = jnp.ones(qkv[0].shape)
    out, dq, dk, dv = with_gradients(run, qkv, everywhere, segments)
    padding = np.asarray(segments == 0)
    for x in (out, dq, dk.transpose(0, 3, 1, 2), dv.transpose(0, 2, 1, 3)):
        assert not np.asarray(x)[padding].any()
    apart = jnp.asarray(np.where(np.arange(T) >= T - 4, np.where(ids == 1, 3, ids), ids))
    check((out, dq, dk, dv), with_gradients(run, qkv, everywhere, apart), segments)


def test_memory_grows_with_the_row_only():
    def temporary_bytes(T):
        segments = jnp.ones((1, T), jnp.int32)
        qkv, weights = draw(segments, size=64)
        lowered = with_gradients.lower(attention.attend_packed, qkv, weights, segments)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(4096) < 2.5 * temporary_bytes(2048)
    # The scores of all queries alone: 4 heads x 4,096^2 x 4 bytes.
    assert temporary_bytes(4096) < 4 * 4096**2 * 4 / 4


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 4), (8, 1, 1)], ids=str)
def test_on_a_mesh_each_device_computes_its_own(tiny, shape):
    """Fewer key/value heads than devices of `tensor` too; nothing is fetched from others."""
    rows = [filled([100, 200]), filled([300]), filled([50] * 7), filled([])] * 2
    segments = jnp.asarray(np.stack(rows))
    qkv, weights = draw(segments)
    mesh = meshes.build(*shape)
    layout = meshes.lay_out(tiny, mesh).layout
    places = dict(layout.specs)
    queries, keys = places["heads"], P(*(places["kv_heads"][i] if i < len(places["kv_heads"]) else None for i in (0, 2)))

    def put(x, spec):
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

    placed = [put(qkv[0], queries), put(qkv[1], keys), put(qkv[2], keys)]
    args = placed, put(weights, queries), put(segments, P(meshes.BATCH_AXES))
    run = functools.partial(attention.attend_packed, layout=layout)
    check(with_gradients(run, *args), with_gradients(dense, qkv, weights, segments), segments)
    if shape[2] <= K:
        text = with_gradients.lower(run, *args).compile().as_text()
        assert "all-gather" not in text and "all-to-all" not in text


def test_inside_a_shard_map_over_other_axes(tiny):
    """As when the places of a row are spread: `first` differs by device."""
    segments = jnp.asarray(np.stack([filled([100, 200]), filled([300])] * 2))
    (q, k, v), weights = draw(segments)
    layout = meshes.lay_out(tiny, meshes.build(2, 2, 2)).layout

    def part(q, k, v, segments):
        first = jax.lax.axis_index("fsdp") * (S // 2)
        return attention.attend_packed(q, k, v, segments, first=first, layout=layout)

    mapped = jax.shard_map(
        part, mesh=layout.mesh, in_specs=(P(None, "fsdp"), P(), P(), P()),
        out_specs=P(None, "fsdp"), axis_names={"fsdp"}, check_vma=False,
    )  # fmt: skip
    check(with_gradients(mapped, [q, k, v], weights, segments),
          with_gradients(dense, [q, k, v], weights, segments), segments)  # fmt: skip


QWEN = dict(num_heads=16, num_kv_heads=8, head_dim=128, compute_dtype="bfloat16")


def test_the_kernel_is_the_platforms_where_it_can_serve(tiny):
    qwen = dataclasses.replace(tiny, **QWEN)
    float32 = dataclasses.replace(qwen, compute_dtype="float32")
    exact = dataclasses.replace(qwen, accum_dtype="float64")
    choose = kernels.choose_training
    assert choose("auto", "cpu", qwen)[0] == "xla"
    assert choose("auto", "gpu", qwen, "9.0")[0] == choose("gpu", "cuda", qwen)[0] == "gpu"
    assert choose("auto", "tpu", float32)[0] == choose("tpu", "tpu", qwen)[0] == "tpu"
    for platform, cfg, capability, why in (
        ("gpu", float32, "9.0", "bfloat16"), ("gpu", exact, "", "add up in float32"),
        ("gpu", qwen, "7.5", "Ampere"), ("tpu", tiny, "", "multiple of 128"),
        ("gpu", dataclasses.replace(qwen, head_dim=96), "9.0", "power of two"),
    ):  # fmt: skip
        kernel, reason = choose("auto", platform, cfg, capability)
        assert kernel == "xla" and why in reason
        with pytest.raises(ValueError, match=why):
            choose(platform, platform, cfg, capability)
    with pytest.raises(ValueError, match="needs gpu devices, these are cpu"):
        choose("gpu", "cpu", qwen)
    assert choose("xla", "tpu", qwen)[0] == "xla"
