"""The batch of the update's benchmark: what belongs to a token stays with it."""

import numpy as np
import pytest

from aster_jax import types
from experiments.benchmarks import train_work


def demo(*tokens):
    """Three fields of a demonstration are read; all but its first token are trained on."""
    return types.Demo("", "", tokens, (0,) + (1,) * (len(tokens) - 1), 0)


def test_old_log_probs_and_advantages_follow_their_tokens(tmp_path):
    demos = [demo(5, 6), demo(7, 8, 9, 10), demo(11, 12, 13)]
    old = -np.arange(9, dtype=np.float32)
    batch, used = train_work.batch("grpo", demos, old, row_tokens=6, micro_rows=1)
    assert used == 2
    there = batch.segments_BT > 0
    by_token = dict(zip(batch.tokens_BT[there].tolist(), batch.old_logprobs_BU[there].tolist(), strict=True))
    assert by_token == {5 + i: -float(i) for i in range(9)}
    signs = dict(zip(batch.tokens_BT[there].tolist(), batch.advantages_BU[there].tolist(), strict=True))
    assert [signs[t] for t in (5, 6, 7, 10, 11, 13)] == [1, 1, -1, -1, 1, 1]
    assert batch.weights_BU.sum() == pytest.approx(1) and (batch.weights_BU > 0).sum() == 6
    train_work.save(tmp_path / "work.npz", demos, old)
    with np.load(tmp_path / "work.npz") as held:
        assert held["ids"].tolist() == list(range(5, 14)) and held["lengths"].tolist() == [2, 4, 3]
        assert held["old"].tolist() == old.tolist()
