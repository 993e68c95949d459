"""Disk arithmetic by hand at 4 B parameters, against real checkpoints, and the refusal."""

import shutil

import jax.numpy as jnp
import optax
import pytest

from aster_jax.errors import InputError
from aster_jax.model import config
from aster_jax.train import checkpoint, disk, optim, retention, step
from tests.train import small_disk

TX = optim.build(optim.OptimConfig(1e-2, 2, 0, 0.1, 0.9, 0.999, 0.01, 1.0))
LARGE = config.PRESETS["qwen3_4b_thinking_2507"]
KEEP = retention.Keep(last=2)


def test_a_state_of_4b_parameters():
    params, moments = disk.state_bytes(LARGE, TX)
    assert params == pytest.approx(4.02e9 * 4, rel=1e-2)
    assert moments == pytest.approx(2 * params, rel=1e-6)  # and counters
    assert params + moments == pytest.approx(48e9, rel=1e-2)


def test_moments_are_as_large_as_the_optimiser_says():
    """Not eight bytes per parameter by decree."""
    assert disk.state_bytes(LARGE, optax.sgd(1e-3))[1] == 0
    params, moments = disk.state_bytes(LARGE, optax.scale_by_adam(mu_dtype=jnp.bfloat16))
    assert moments == pytest.approx(1.5 * params, rel=1e-6)


def test_a_whole_run_by_hand():
    best = retention.Keep(last=2, every=100, best=True)
    stages = {
        "sft": disk.Stage(TX, 188, 50, KEEP),
        "rl1": disk.Stage(TX, 405, 10, best, trajectories=405 * 1024, tokens=18_000),
        "rl2": disk.Stage(TX, 234, 10, best, trajectories=234 * 1024, tokens=32_000),
        "eval": disk.Stage(trajectories=480, tokens=90_000),
    }
    needed = disk.needed_bytes(LARGE, stages)
    params = 16.09e9
    # SFT leaves 2. Stage 1 leaves the last 2, the best, and steps 100, 200, 300, 400 of which
    # none is among the last two (400 is: 400 and 405). Stage 2 has 230, 234, 100, 200, the
    # best and one being written.
    expected = {"sft": 2 * params, "rl1": 6 * params, "rl2": 6 * 3 * params}
    assert dict(needed.checkpoints) == pytest.approx(expected, rel=1e-2)
    rollouts = 405 * 1024 * (18_000 * 20 + 4_000) + 234 * 1024 * (32_000 * 20 + 4_000)
    assert needed.episodes == rollouts + 480 * (90_000 * 20 + 4_000)


def test_the_worst_moment_may_be_an_earlier_stage(tiny):
    params, moments = disk.state_bytes(tiny, TX)
    many = disk.Stage(TX, 100, 1, retention.Keep(last=9))
    needed = disk.needed_bytes(tiny, {"sft": many, "rl1": disk.Stage(TX, 1, 1, KEEP)})
    assert needed.checkpoints == {"sft": 10 * (params + moments)}
    # A stage cannot hold more checkpoints than it makes, and none without a step.
    short = disk.Stage(TX, 2, 1, retention.Keep(last=9, best=True))
    needed = disk.needed_bytes(tiny, {"sft": short, "rl1": disk.Stage(TX, 0, 1, KEEP)})
    assert needed.checkpoints == {"sft": 2 * (params + moments)}
    assert disk.needed_bytes(tiny, {}) == disk.Needed({}, 0)


def test_real_checkpoints_take_what_was_said(tiny, params, one_device, tmp_path):
    """Not more, and not much less: random numbers do not compress."""
    state = step.fresh_state(params, TX, one_device)
    state = state.replace(opt_state=(state.opt_state[0], noisy(state), *state.opt_state[2:]))
    with checkpoint.Checkpoints(tmp_path / "sft" / "checkpoints", KEEP) as saved:
        for at in (1, 2, 3):
            saved.save(at, state, {})
    needed = disk.needed_bytes(tiny, {"sft": disk.Stage(TX, 3, 1, KEEP)})
    files = [p for p in (tmp_path / "sft").rglob("*") if p.is_file()]
    written = sum(p.stat().st_size for p in files)
    # 2 of the 3 that there may be for a moment; each has some kilobytes of descriptions.
    assert 0.8 < written / (needed.checkpoints["sft"] * 2 / 3) < 1.3
    assert f"{written / 1e6:.0f} MB are there" in disk.check(tmp_path, needed)


def noisy(state):
    """Moments that look like trained ones to a compressor: the parameters' own digits."""
    return state.opt_state[1]._replace(mu=state.params, nu=state.params)


def test_the_sentence():
    needed = disk.Needed({"sft": int(11.2e9), "rl1": int(60e9)}, int(12e9))
    assert disk.sentence(needed, int(300e9)) == (
        "this run writes up to 71 GB of checkpoints (sft 11 GB, rl1 60 GB) and at most 12 GB of "
        "episodes; 300 GB are free"
    )
    tight = disk.sentence(needed, int(75e9), held=int(2e9))
    assert tight.endswith(
        "2.0 GB are there, 75 GB are free, which long episodes may fill before the end"
    )
    assert disk.sentence(disk.Needed({}, 5_000_000), 10**9) == (
        "this run writes up to 0 MB of checkpoints and at most 5 MB of episodes; 1.0 GB are free"
    )


def test_check_asks_the_disk(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert disk.check(tmp_path, disk.Needed({"sft": free // 2}, 10)).endswith("are free")
    disk.check(tmp_path, disk.Needed({"sft": free // 2}, 10 * free))
    with pytest.raises(InputError, match=r"writes up to .* free on the disk of .*larger disk"):
        disk.check(tmp_path, disk.Needed({"sft": 2 * free}, 0))


def sparse(path, size):
    """A file of a size that the disk need not have."""
    path.mkdir(parents=True)
    with open(path / "x", "wb") as f:
        f.truncate(size)


def test_what_other_stages_have_written_leaves_no_more_room(tmp_path):
    """Of a finished stage the parameters stay; its moments make room for those of the next."""
    free = shutil.disk_usage(tmp_path).free
    needed = disk.Needed({"rl1": free * 3 // 2}, 0)
    sparse(tmp_path / "sft" / "checkpoints" / "9" / "params" / "d", 2 * free)
    with pytest.raises(InputError, match="larger disk"):
        disk.check(tmp_path, needed)
    sparse(tmp_path / "sft" / "checkpoints" / "9" / "optimiser" / "d", free)
    assert "of finished stages will be deleted" in disk.check(tmp_path, needed)


def test_what_is_written_already_needs_no_more_space(tmp_path):
    with small_disk.mounted(tmp_path / "disk", 1 << 20) as path:
        needed = disk.Needed({"sft": 900_000}, 0)
        folder = path / "sft" / "checkpoints" / "1"
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(bytes(600_000))
        assert shutil.disk_usage(path).free < 500_000
        assert "1 MB are there" in disk.check(path, needed)
        small_disk.fill(path, leave=200_000)
        with pytest.raises(InputError, match="1 MB are there, 0 MB are free"):
            disk.check(path, needed)
