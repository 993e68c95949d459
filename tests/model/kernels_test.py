"""The kernels over pages: equal to the XLA reference, and refused where they cannot be.

No device here has them, so Pallas interprets them: the GPU kernel by its own argument, the
TPU kernels (asynchronous copies and semaphores included) in JAX's TPU interpret mode.
"""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from aster_jax.model import (
    attention,
    cache,
    config,
    gpu_attention,
    kernels,
    tpu_attention,
    transformer,
)

W, S = 5, 8
# Around page edges, a single token, and a full table; then padding.
LENGTHS = (1, 7, 8, 9, 16, 33, W * S)
BEYOND = W * S
# One step of the number format, relative, and half of one at size 1 where sums cancel.
STEP = {"float32": 2e-6, "bfloat16": 2**-7}


@pytest.fixture
def interpreted(monkeypatch):
    """A function from a kernel's name to the context in which a CPU can run it."""
    plain = gpu_attention.attend
    monkeypatch.setattr(gpu_attention, "attend", functools.partial(plain, interpret=True))
    return {"gpu": contextlib.nullcontext, "tpu": pltpu.force_tpu_interpret_mode}.__getitem__


def rows(lengths, groups, dtype, heads=2, size=128, seed=0):
    """One query at the end of every row; keys on scattered pages, empty entries behind them."""
    B, N = len(lengths), heads * groups
    keys = jax.random.split(jax.random.key(seed), 4)
    q_BTNH = jax.random.normal(keys[0], (B, 1, N, size), dtype)
    k_KZSH = jax.random.normal(keys[1], (heads, B * W, S, size), dtype)
    v_KZSH = jax.random.normal(keys[2], (heads, B * W, S, size), dtype)
    table_BW = jax.random.permutation(keys[3], B * W).reshape(B, W)
    held_B = -(-jnp.asarray(lengths) // S)
    table_BW = jnp.where(jnp.arange(W)[None] < held_B[:, None], table_BW, B * W)
    cached = cache.Layer(k_KZSH, v_KZSH, heads_first=True)
    return q_BTNH, cached, table_BW, jnp.asarray(lengths, jnp.int32)[:, None] - 1


def check_close(a, b):
    step = STEP[a.dtype.name]
    assert a.dtype == b.dtype
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    np.testing.assert_allclose(a, b, rtol=step, atol=step / 2)


# The TPU kernel rounds keys and values to bfloat16 and is refused in float32 (see below).
KINDS = (("gpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16"))


@pytest.mark.parametrize("groups", [1, 3, 4])
@pytest.mark.parametrize("kernel, dtype", KINDS)
def test_a_kernel_equals_the_reference(interpreted, kernel, dtype, groups):
    args = rows(LENGTHS, groups, dtype)
    with interpreted(kernel)():
        out = attention.attend_pages(*args, kernel)
    check_close(out, attention.attend_pages(*args))


def test_the_tpu_kernel_equals_the_reference_over_several_blocks(interpreted, monkeypatch):
    """Blocks of two pages: three a row, with the last one widened."""
    monkeypatch.setattr(kernels, "TPU_BLOCK_TOKENS", 2 * S)
    args = rows(LENGTHS, 3, "bfloat16")
    with interpreted("tpu")():
        out = attention.attend_pages(*args, "tpu")
    check_close(out, attention.attend_pages(*args))


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", STEP)
def test_the_gpu_kernel_equals_the_reference_in_any_number_of_parts(
    interpreted, monkeypatch, dtype, parts
):
    """Rows of 1 to 5 pages: parts of like length, shorter last ones, and empty ones."""
    monkeypatch.setattr(gpu_attention, "MOST_PARTS", parts)
    args = rows(LENGTHS, 3, dtype)
    with interpreted("gpu")():
        out = attention.attend_pages(*args, "gpu")
    check_close(out, attention.attend_pages(*args))


@pytest.mark.parametrize("kernel", ["gpu", "tpu"])
@pytest.mark.parametrize("padding", [(0,), (2, 3), (5, 6), range(7)], ids=str)
def test_padding_rows_see_nothing_and_change_nobody(interpreted, kernel, padding):
    q, cached, table, positions = rows(LENGTHS, 2, "bfloat16")
    at = jnp.asarray(list(padding))
    table, positions = table.at[at].set(cached.pages), positions.at[at].set(BEYOND)
    with interpreted(kernel)():
        out = attention.attend_pages(q, cached, table, positions, kernel)
    assert not np.asarray(out[at], np.float32).any()
    check_close(out, attention.attend_pages(q, cached, table, positions))


def chunks(starts, counts, T, groups, dtype):
    """As `rows`, but with `counts` queries of each row from place `starts` on, then padding."""
    lengths = [start + count for start, count in zip(starts, counts, strict=True)]
    _, cached, table_BW, _ = rows(lengths, groups, dtype, seed=T)
    q_BTNH = jax.random.normal(jax.random.key(T), (len(starts), T, 2 * groups, 128), dtype)
    order_1T, counts_B1 = jnp.arange(T)[None], jnp.asarray(counts)[:, None]
    positions_BT = jnp.where(order_1T < counts_B1, jnp.asarray(starts)[:, None] + order_1T, BEYOND)
    return q_BTNH, cached, table_BW, positions_BT


# Prompts from the beginning, results across page edges, up to a full table, and one row of nothing.
SHORT = (0, 3, 8, 39, 0), (2, 1, 2, 1, 0)
LONG = (0, 5, 19, 33, 0), (19, 12, 21, 7, 0)


@pytest.mark.parametrize(
    "starts, counts, groups", [(*SHORT, 3), (*LONG, 4)], ids=["short", "long"]
)
@pytest.mark.parametrize("kernel, dtype", KINDS)
def test_a_chunk_of_a_row_equals_the_reference(
    interpreted, monkeypatch, kernel, dtype, starts, counts, groups
):
    """In several tiles of queries (one for the short) and several rounds of pages."""
    monkeypatch.setattr(gpu_attention, "MOST_QUERIES", 32)
    monkeypatch.setattr(tpu_attention, "MOST_QUERIES", 16)
    monkeypatch.setattr(tpu_attention, "KEYS", 2 * S)
    args = chunks(starts, counts, max(counts) + 1, groups, dtype)
    with interpreted(kernel)():
        out = attention.attend_pages(*args, kernel)
    check_close(out, attention.attend_pages(*args))
    assert not np.asarray(out, np.float32)[np.asarray(args[3]) == BEYOND].any()


@pytest.mark.parametrize("kernel", ["gpu", "tpu"])
def test_a_chunk_sees_no_page_that_is_not_its_own(interpreted, kernel):
    """Whatever lies on pages behind a row's last one, and on all that no table names."""
    q, cached, table, positions = chunks((0, 5), (9, 3), 12, 2, "bfloat16")
    mine = jnp.isin(jnp.arange(cached.pages), table)[None, :, None, None]
    assert not mine[:, -1].all()  # what an empty entry is fetched from
    loud = cached.replace(
        keys=jnp.where(mine, cached.keys, 1e4), values=jnp.where(mine, cached.values, -1e4)
    )
    with interpreted(kernel)():
        found, expected = (
            attention.attend_pages(q, pages, table, positions, kernel) for pages in (loud, cached)
        )
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(expected, np.float32))


@pytest.mark.parametrize("heads", [2, 3])
def test_heads_are_split_over_an_axis_left_to_the_compiler(interpreted, heads, eight_devices):
    """As in the engine: rows and pages by hand over data axes, `tensor` automatic.

    Three heads do not divide over two devices, so each computes all of them. With the GPU
    kernel only: XLA's CPU compiler aborts (HloSharding::ValidateNonTuple, jax 0.10.2) on
    the TPU interpreter's callbacks in a shard_map in a shard_map. The TPU kernel there is
    compiled by `tests/rollout/compile_ahead_test.py`.
    """
    P = jax.sharding.PartitionSpec
    args = rows((1, 9, 40, 17), 2, "bfloat16", heads=heads)
    data, pages = P(("data", "fsdp")), P(None, ("data", "fsdp"))
    q, cached, _, positions = args
    # Every device's part has its own page numbers.
    table = jnp.tile(jnp.arange(W)[None], (4, 1))
    split = jax.shard_map(
        lambda *part: attention.attend_pages(*part, "gpu"),
        mesh=eight_devices, in_specs=(data, pages, data, data), out_specs=data,
        axis_names={"data", "fsdp"}, check_vma=False,
    )  # fmt: skip
    with interpreted("gpu")():
        out = jax.jit(split)(q, cached, table, positions)
    table = table + W * jnp.arange(4)[:, None]
    check_close(out, attention.attend_pages(q, cached, table, positions))


def play(cfg):
    """Three tokens through the model, each writing the cache; the third row is padding."""
    params = transformer.for_decoding(transformer.init_params(cfg, jax.random.key(0)))
    lengths_B = jnp.asarray([5, 7, BEYOND, 0])
    table_BW = jnp.asarray([[0, 1], [2, 3], [8, 8], [4, 8]])
    pool, outs = cache.init(cfg, 8, S, cfg.compute_dtype), []

    @jax.jit
    def step(tokens_BT, positions_BT, pool):
        return transformer.forward(
            params, cfg, tokens_BT, positions_BT, cache=pool, table_BW=table_BW
        )

    for i in range(3):
        tokens_BT = jax.random.randint(jax.random.key(i), (4, 1), 0, cfg.vocab_size)
        out_BTD, pool = step(tokens_BT, lengths_B[:, None] + i, pool)
        outs.append(out_BTD)
    return np.asarray(jnp.concatenate(outs, axis=1), np.float32)


@pytest.fixture(scope="module")
def played(tiny):
    """What the reference decodes, by dtype; heads of a size that both kernels take."""
    cfg = dataclasses.replace(tiny, head_dim=128)
    return {d: play(dataclasses.replace(cfg, compute_dtype=d)) for d in STEP}


@pytest.mark.slow
@pytest.mark.parametrize("kernel, dtype", KINDS)
def test_whole_decoding_steps_agree(interpreted, tiny, played, kernel, dtype):
    cfg = dataclasses.replace(tiny, head_dim=128, compute_dtype=dtype, attention=kernel)
    with interpreted(kernel)():
        found = play(cfg)
    if dtype == "float32":
        np.testing.assert_allclose(found, played[dtype], atol=1e-5)
    else:  # as far from the float32 result as the reference's own rounding takes it
        off = {d: np.square(x - played["float32"]).mean() ** 0.5 for d, x in (("kernel", found), ("reference", played[dtype]))}
        assert off["kernel"] <= 1.25 * off["reference"]


QWEN = config.PRESETS["qwen3_4b"]
SMOL = dataclasses.replace(QWEN, head_dim=64, num_heads=9, num_kv_heads=3)
BF16 = ("bfloat16", 32, (64, 128))


def test_auto_takes_the_platforms_kernel_or_says_why_not():
    chosen = {p: kernels.choose("auto", p, QWEN, *BF16)[0] for p in ("cpu", "gpu", "tpu")}
    assert chosen == {"cpu": "xla", "gpu": "gpu", "tpu": "tpu"}
    assert kernels.choose("xla", "tpu", QWEN, *BF16) == ("xla", "as configured")
    assert kernels.choose("auto", "gpu", SMOL, *BF16)[0] == "gpu"
    assert kernels.choose("auto", "tpu", SMOL, *BF16) == (
        "xla", "the TPU kernel takes heads of a multiple of 128, not head_dim=64",
    )  # fmt: skip


def test_a_gpu_older_than_ampere_decodes_by_xla():
    """Triton in XLA refuses compute capability below 8.0 (T4: 7.5, V100: 7.0)."""
    for capability, chosen in (("7.5", "xla"), ("8.0", "gpu"), ("10.0", "gpu"), ("gfx90a", "gpu")):
        assert kernels.choose("auto", "gpu", QWEN, *BF16, capability)[0] == chosen
    with pytest.raises(ValueError, match="needs compute capability 8.0.*has 7.5, or choose 'xla'"):
        kernels.choose("gpu", "gpu", QWEN, *BF16, "7.5")


@pytest.mark.parametrize(
    "platform, cfg, sizes, message",
    [
        ("cpu", QWEN, BF16, "'gpu' needs gpu devices, these are cpu"),
        ("gpu", QWEN, ("bfloat16", 48, (64, 128)), "page_tokens=48; change it, or choose 'xla'"),
        ("gpu", QWEN, ("bfloat16", 256, (64, 128)), "page_tokens=256"),
        ("gpu", QWEN, ("bfloat16", 8, (64, 128)), "from 16 to 128 tokens.*page_tokens=8"),
        ("gpu", dataclasses.replace(QWEN, head_dim=96), BF16, "head_dim=96"),
        ("tpu", SMOL, BF16, "head_dim=64"),
        ("tpu", QWEN, ("float32", 32, (64, 128)), "rollout.dtype='float32'.*'bfloat16'"),
        ("tpu", QWEN, ("bfloat16", 20, (64, 128)), "page_tokens=20"),
        ("tpu", QWEN, ("bfloat16", 32, (256, 1024)), "raise rollout.page_tokens=32"),
    ],
)
def test_a_kernel_asked_for_and_not_to_be_had_is_an_error(platform, cfg, sizes, message):
    wanted = "gpu" if platform == "cpu" else platform
    with pytest.raises(ValueError, match=message):
        kernels.choose(wanted, platform, cfg, *sizes)
    assert kernels.choose("auto", platform, cfg, *sizes)[0] == "xla"


def h100():
    """A described GPU: from jax 0.11 on, Triton is lowered to for some device only."""
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    return jax.sharding.AbstractMesh((), (), abstract_device=device)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("page, heads", [(16, (9, 3, 64)), (32, (32, 8, 128)), (128, (4, 4, 16))])
@pytest.mark.parametrize("tokens", [1, 64])
def test_the_gpu_kernel_lowers_to_triton(page, heads, dtype, tokens):
    """What is accepted gets past Pallas's checks for a GPU; compiling needs the GPU itself."""
    N, K, H = heads
    assert kernels.choose("gpu", "gpu", dataclasses.replace(QWEN, head_dim=H), dtype, page, (4, 7))
    pool, at = ((K, 28, page, H), dtype), [((4, 7), int), ((4, tokens), int)]
    shapes = [((4, tokens, N, H), dtype), pool, *at]
    q, keys, *rest = [jax.ShapeDtypeStruct(shape, jnp.dtype(d)) for shape, d in shapes]
    args = q, cache.Layer(keys, keys, heads_first=True), *rest
    attend = jax.jit(functools.partial(attention.attend_pages, kernel="gpu"))
    with jax.sharding.use_abstract_mesh(h100()):
        lowered = attend.trace(*args).lower(lowering_platforms=("cuda",))
    assert "triton" in lowered.as_text()
