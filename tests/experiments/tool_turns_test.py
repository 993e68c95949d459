"""The benchmark of many tool turns: what it says was sampled is what the engine samples."""

import pytest
from absl import flags

from experiments.benchmarks import decode, tool_turns

SIZES = {
    "turns": 2, "rows": 4, "together": 2, "prompt": 32, "result": 16, "sampled": 8, "steps": 4,
    "page_tokens": 16,
}  # fmt: skip


@pytest.fixture
def rollouts():
    values = flags.FLAGS
    if not values.is_parsed():
        values(["test"])
    before = {name: values[name].value for name in SIZES}
    for name, value in SIZES.items():
        values[name].value = value
    yield tool_turns.make(decode.TINY, "xla")
    for name, value in before.items():
        values[name].value = value


def test_every_row_holds_its_prompt_turns_and_results(rollouts):
    # 32 of the prompt, two results of 16, three turns of 8: 88 tokens on six pages.
    assert rollouts.table_BW.shape == (4, 6)
    assert sorted(rollouts.table_BW.ravel().tolist()) == list(range(24))
    slots = rollouts.programs.empty()
    slots = rollouts.decode(rollouts.write(slots, 0, 32), 32)
    assert slots.length_B.tolist() == [40] * 4 and not slots.left_B.any()
    slots = rollouts.write(slots, 40, 16)
    written = slots.cache.layers[0].keys[rollouts.table_BW[3]]  # six pages [K, H, S]
    assert (abs(written).sum(axis=(1, 2)).reshape(-1) > 0).tolist() == [True] * 56 + [False] * 40


def test_it_takes_time(rollouts):
    assert all(seconds > 0 for seconds in rollouts.play().values())
