"""The decode benchmark: it runs here at a tiny shape, and says what memory does not hold."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.model import config
from experiments.benchmarks import decode

ROOT = pathlib.Path(__file__).resolve().parents[2]


def cell(batch, context, capacity=0):
    return decode.Cell(batch, context, context, 8, 2, 16, max(capacity, context), "auto")


@pytest.mark.slow
def test_the_command_runs_at_a_tiny_shape():
    command = [sys.executable, "-m", "experiments.benchmarks.decode", "--models=tiny",
               "--batches=1,3", "--contexts=40", "--capacity=96", "--steps=4", "--repeats=2",
               "--page_tokens=16"]  # fmt: skip
    # One device and XLA's optimisations, unlike in the other tests: this one is a timing.
    env = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("tiny")]
    assert [row[:4] for row in rows] == [["tiny", b, "40", "xla"] for b in ("1", "3")]
    for row in rows:  # tokens/s x ms/step = 1,000 x batch, up to what is printed
        rate, step, floor = map(float, row[4:7])
        np.testing.assert_allclose(rate * step, 1000 * int(row[1]), rtol=0.05)
        assert floor > 0 and 0 < float(row[8].rstrip("%")) <= 100 and float(row[9]) == 0
    assert "attention: there is no kernel for cpu" in done.stdout


def test_what_does_not_fit_is_said_and_left_out(capsys):
    assert decode.show(["qwen3_4b"], [cell(256, 32_768)], int(80e9), 1e12) == []
    said = capsys.readouterr().out.splitlines()[-1]
    # 147,456 bytes per token x 256 x 32,768 tokens
    assert "does not fit" in said and "keys and values 1237.0 GB" in said and "80.0 GB" in said
    assert decode.lacking(config.PRESETS["qwen3_4b"], cell(64, 1024), int(80e9)) == ""


def test_filling_the_cache_takes_no_second_one():
    empty = jnp.zeros((3, 4, 5))
    filled = decode._fill(empty, jax.random.key(0))
    assert empty.is_deleted() and len(np.unique(filled)) == 60


def test_every_row_has_pages_of_its_own_and_none_beyond_its_context():
    one = cell(3, 40, capacity=96)
    table = np.asarray(decode.page_table(one))
    assert table.shape == (3, 6) and sorted(table[:, :3].ravel()) == list(range(9))
    assert (table[:, 3:] == one.sizes.pool_pages(1)).all() and one.sizes.pool_pages(1) == 9


def test_a_wrong_kernel_is_noticed(monkeypatch):
    plain = decode.attention.attend_pages

    def wrong(*args, kernel):
        return plain(*args) + (0.0 if kernel == "xla" else 0.1)

    monkeypatch.setattr(decode.attention, "attend_pages", wrong)
    one, cfg = cell(2, 40), decode.TINY
    cache = decode.kv.init(cfg, one.sizes.pool_pages(1), 16, "bfloat16")
    slots = decode.rewind(decode.engine.Slots(cache, *[None] * 5), one)
    assert decode.compare(cfg, "gpu", slots, decode.page_table(one)) > decode.CLOSE
    assert jax.tree.leaves(slots.cache)[0].shape == (6, 2, 16, 16)
