"""The memory floor by hand, and the sentence for a model that cannot fit."""

import dataclasses

import pytest

from aster_jax import mesh as meshes
from aster_jax.model import config, transformer
from aster_jax.train import memory


def test_needs_by_hand(tiny, one_device):
    count = transformer.count_params(tiny)
    # 2 arrays x 2 layers x 2 heads x 16 = 128 numbers per token, a pool of 500 tokens.
    # 8 rows of 10 tokens: 2 layers x 10 x 32 float32, and 4 heads x 10 x 10 scores.
    micro = 8 * (2 * 10 * 32 * 4 + 4 * 10 * 10 * 4)
    needed = memory.needed_bytes(tiny, one_device, 500, "bfloat16", (8, 10))
    assert needed == {
        "training": 4 * 4 * count + micro,
        "activations": micro,
        "rollout": 3 * 4 * count + 2 * count + 500 * 128 * 2,
        "cache": 500 * 128 * 2,
    }
    halved = memory.needed_bytes(tiny, one_device, 500, "bfloat16", (8, 10), "bfloat16")
    assert needed["training"] - halved["training"] == 2 * 2 * count
    assert needed["rollout"] - halved["rollout"] == 2 * 2 * count


def test_eight_devices_share(tiny, one_device, eight_devices):
    one = memory.needed_bytes(tiny, one_device, 512, "float32", (8, 1))
    eight = memory.needed_bytes(tiny, eight_devices, 512, "float32", (8, 1))
    # fsdp x tensor hold a fourth of the state; pages over 4, heads over 2.
    assert eight["training"] == pytest.approx(one["training"] / 4, rel=1e-2)
    assert eight["cache"] == one["cache"] / 8
    single = dataclasses.replace(tiny, num_kv_heads=1)
    alone = memory.needed_bytes(single, one_device, 512, "float32", (8, 1))["cache"]
    # A single head is replicated over tensor, not split.
    assert memory.needed_bytes(single, eight_devices, 512, "float32", (8, 1))["cache"] == alone / 4


def test_too_large_is_refused_with_numbers_and_remedies(tiny, one_device):
    large = config.PRESETS["qwen3_4b_thinking_2507"]
    with pytest.raises(ValueError, match=r"4.02 B parameters needs at least .*or rollout.pool_tokens"):
        memory.check(large, one_device, 100_000 * 32_768, "bfloat16", (1, 512))
    memory.check(tiny, one_device, 256, "float32", (1, 512))


def test_the_papers_model_fits_a_pod_by_this_count():
    mesh = meshes.build(1, 4, 2)
    needed = memory.needed_bytes(
        config.PRESETS["qwen3_4b_thinking_2507"], mesh, 64 * 32_768, "bfloat16", (4, 32_768)
    )
    # 36 layers x 32,768 x 2,560 bfloat16 and 32 heads x 1,024 x 32,768 scores, over 2 devices.
    assert needed["activations"] == (36 * 32_768 * 2_560 * 2 + 32 * 1_024 * 32_768 * 4) // 2
    # 4.02 G parameters x 16 bytes / 8 devices.
    rest = needed["training"] - needed["activations"]
    assert rest == pytest.approx(8.045e9, rel=1e-3)
