"""Checkpoints: bit-equal, also onto another mesh; what stays; damage and full disks survived."""

import dataclasses
import gc
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.errors import InputError
from aster_jax.model import transformer
from aster_jax.train import checkpoint, optim, retention, step
from tests.train import small_disk

TX = optim.build(optim.OptimConfig(1e-2, 2, 0, 0.1, 0.9, 0.999, 0.01, 1.0))
POSITION = {"step": 3, "data": {"next_index": 12, "nested": [1, 2]}}
LAST_TWO = retention.Keep(2)
# Orbax drops the coroutines of its other reads and writes when one of them fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def state(tiny, params, one_device):
    made = step.fresh_state(params, TX, one_device)
    # Moments that are not all zero.
    return jax.tree.map(lambda x: x + jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), made)


@pytest.fixture(scope="module")
def abstract(tiny, one_device):
    return step.abstract_state(tiny, TX, one_device)


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    directory = tmp_path_factory.mktemp("stage") / "checkpoints"
    with checkpoint.Checkpoints(directory, LAST_TWO) as store:
        assert store.latest is None and store.best is None and store.steps == []
        for number in (1, 2, 3):
            store.save(number, numbered(state, number), {**POSITION, "step": number})
    return directory


def numbered(state, number):
    """A state that tells which one it is."""
    return state.replace(step=jnp.asarray(number, jnp.int32))


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def size(path):
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


# What stays.


def test_old_ones_go_and_the_best_stays_across_a_restart(state, tmp_path):
    keep = retention.Keep(last=1, best=True)
    with checkpoint.Checkpoints(tmp_path, keep) as store:
        for number, score in ((1, 0.0), (2, 0.5), (3, 0.25), (4, None), (5, float("nan"))):
            store.save(number, state, POSITION, score)
        store.wait()
        assert store.steps == [2, 5] and store.best == 2 and store.latest == 5
    with checkpoint.Checkpoints(tmp_path, keep) as store:
        assert store.best == 2
        store.save(6, state, POSITION, 0.5)
        store.wait()
        assert store.steps == [6] and store.best == 6


def test_a_score_may_come_after_the_checkpoint(state, abstract, tmp_path):
    """A process that had to leave in the middle of a measurement: the next one makes it."""
    keep = retention.Keep(last=1, best=True)
    with checkpoint.Checkpoints(tmp_path, keep) as store:
        store.save(1, state, POSITION, 0.5)
        store.save(2, numbered(state, 2), POSITION)
    with checkpoint.Checkpoints(tmp_path, keep) as store:
        store.save(2, numbered(state, 9), POSITION, 0.75)
        store.save(2, state, POSITION, 0.25)  # one that has a score keeps it
        assert store.best == 2 and store.best_score == 0.75
    with checkpoint.Checkpoints(tmp_path, keep) as store:
        assert store.best == 2 and store.best_score == 0.75
        equal(store.restore_newest(abstract)[0], numbered(state, 2))
        store.save(3, state, POSITION, 0.5)
        store.wait()
        assert store.steps == [2, 3]


# Whole and bit-equal.


def test_restores_every_bit_and_the_position(saved, state, abstract):
    with checkpoint.Checkpoints(saved, LAST_TWO) as store:
        assert store.steps == [2, 3]
        restored, position = store.restore_newest(abstract)
        assert store.position(2) == {**POSITION, "step": 2}
    assert position == POSITION
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    equal(restored, numbered(state, 3))


def test_restores_onto_another_mesh(tiny, saved, state, eight_devices):
    with checkpoint.Checkpoints(saved, LAST_TWO) as store:
        restored, _ = store.restore_newest(step.abstract_state(tiny, TX, eight_devices))
    equal(restored, numbered(state, 3))
    embed = restored.params["embed"]["w"]
    assert {s.data.shape for s in embed.addressable_shards} == {(24, 16)}


def test_parameters_alone(saved, state, abstract):
    with checkpoint.Checkpoints(saved, LAST_TWO) as store:
        equal(store.params(2, abstract.params), state.params)
        with pytest.raises(InputError, match=r"no checkpoint of step 1, only \[2, 3\]"):
            store.params(1, abstract.params)


def test_what_is_donated_after_a_save_is_written_as_it_was(tmp_path):
    """Steps that overwrite the state at once, again and again while the write goes on."""
    rng = np.random.default_rng(0)
    numbers = {f"w{i}": rng.normal(size=(512, 1024)).astype(np.float32) for i in range(8)}
    state = step.TrainState(jnp.int32(5), jax.device_put(numbers), {"mu": jax.device_put(numbers)})
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    with checkpoint.Checkpoints(tmp_path, LAST_TWO) as store:
        store.save(5, state, POSITION)
        for _ in range(5):
            state = overwrite(state)
        jax.block_until_ready(state)
        restored, _ = store.restore_newest(abstract)
    assert int(restored.step) == 5
    equal(restored.params, numbers)
    equal(restored.opt_state["mu"], numbers)


def test_what_the_write_looks_at_outlives_donation():
    """The ground of the test before, without its luck with time: on the CPU the writer holds a
    view of the array's own memory, and jax does not give that memory away."""
    array = jax.device_put(np.arange(100_000, dtype=np.float32), jax.devices()[0])
    view = np.asarray(array.addressable_shards[0].data)
    assert view.ctypes.data == array.unsafe_buffer_pointer()
    new = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(array)
    jax.block_until_ready(new)
    assert new.unsafe_buffer_pointer() != view.ctypes.data and view[7] == 7


def test_the_position_is_taken_when_it_is_saved(state, tmp_path):
    position = {"data": {"next": [1]}}
    with checkpoint.Checkpoints(tmp_path, LAST_TWO) as store:
        store.save(1, state, position)
        position["data"]["next"].append(2)
        assert store.position(1) == {"data": {"next": [1]}}


def test_a_step_that_is_there_stays_as_it_is(state, abstract, tmp_path):
    with checkpoint.Checkpoints(tmp_path, LAST_TWO) as store:
        store.save(1, state, {"first": True})
        store.save(1, numbered(state, 9), {"first": False})
        restored, position = store.restore_newest(abstract)
        assert position == {"first": True}
        equal(restored, state)


# Half-made, damaged, of another kind.


def test_what_a_kill_left_is_not_taken_for_whole_and_goes(state, abstract, tmp_path):
    with checkpoint.Checkpoints(tmp_path, LAST_TWO) as store:
        store.save(1, state, POSITION)
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "1" / "params", tmp_path / "0.going")
    with checkpoint.Checkpoints(tmp_path, LAST_TWO) as store:
        assert store.latest == 1
        equal(store.restore_newest(abstract)[0], state)
        store.save(2, state, POSITION)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_a_kill_in_any_part_of_a_save_leaves_a_whole_one(state, abstract, tmp_path, monkeypatch):
    """What lies on disk when a save is all but renamed, and before and after each deletion."""
    directory, seen = tmp_path / "checkpoints", tmp_path / "seen"

    def seen_by(real):
        def call(path, **named):
            shutil.copytree(directory, seen / str(len(list(seen.iterdir()))))
            return real(path, **named)

        return call

    seen.mkdir()
    removed = seen_by(shutil.rmtree)
    with checkpoint.Checkpoints(directory, retention.Keep(1)) as store:
        store.save(1, numbered(state, 1), {"step": 1})
        store.wait()
        monkeypatch.setattr(checkpoint.sums, "of", seen_by(checkpoint.sums.of))
        monkeypatch.setattr(checkpoint.shutil, "rmtree", removed)
        store.save(2, numbered(state, 2), {"step": 2})
        store.wait()
        monkeypatch.undo()
    left = [{p.name for p in kill.iterdir()} for kill in sorted(seen.iterdir())]
    assert left == [{"1", "2.orbax-checkpoint-tmp"}, {"1.going", "2"}]
    for kill in seen.iterdir():
        with checkpoint.Checkpoints(kill, retention.Keep(1)) as store:
            newest = store.latest
            restored, position = store.restore_newest(abstract)
            equal(restored, numbered(state, newest))
            assert position == {"step": newest}
            store.save(newest + 1, state, {})
        assert [p.name for p in kill.iterdir()] == [str(newest + 1)]


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    """One bit, which orbax itself does not notice in the middle of an array."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


DAMAGE = {
    "halved": halved,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "flipped": flipped,
    "gone": pathlib.Path.unlink,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_any_damaged_file_of_the_newest_makes_the_older_one_count(
    saved, state, abstract, tmp_path, how
):
    """Or does not matter: then the newest comes back with every bit."""
    names = sorted(p.relative_to(saved / "3") for p in (saved / "3").rglob("*") if p.is_file())
    assert len(names) > 15
    fell_back = []
    for i, name in enumerate(names):
        directory = tmp_path / str(i) / "checkpoints"
        shutil.copytree(saved, directory)
        DAMAGE[how](directory / "3" / name)
        said = []
        with checkpoint.Checkpoints(directory, LAST_TWO, said.append) as store:
            restored, position = store.restore_newest(abstract)
            assert position == {**POSITION, "step": int(restored.step)}
            equal(restored, numbered(state, int(restored.step)))
            if int(restored.step) == 2:
                fell_back.append(name)
                assert len(said) == 1 and "step 3 is damaged" in said[0] and "\n" not in said[0]
                assert (directory.parent / "damaged" / "3").is_dir() and store.latest == 2
        shutil.rmtree(directory.parent)
    spared = {str(n) for n in names} - {str(n) for n in fell_back}
    # Orbax's notes on the whole; and a bit of the sums may be one of the name of another item.
    assert spared <= {"_CHECKPOINT_METADATA", "commit_success.txt", checkpoint.SUMS}
    assert checkpoint.SUMS not in spared or how == "flipped"


def test_a_damaged_step_can_be_saved_again_and_again(saved, state, abstract, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(saved, directory)
    for _ in range(2):
        halved(directory / "3" / "params" / "manifest.ocdbt")
        with checkpoint.Checkpoints(directory, LAST_TWO) as store:
            assert int(store.restore_newest(abstract)[0].step) == 2
            store.save(3, numbered(state, 3), POSITION)
            assert int(store.restore_newest(abstract)[0].step) == 3
    assert sorted(p.name for p in (tmp_path / "damaged").iterdir()) == ["3", "3_2"]


def test_when_none_can_be_read_nothing_is_moved(saved, abstract, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(saved, directory)
    for number in "23":
        flipped(directory / number / "position" / "metadata")
    with checkpoint.Checkpoints(directory, LAST_TWO) as store:
        with pytest.raises(InputError, match="checkpoints/3 .*is damaged .*metadata is not") as e:
            store.restore_newest(abstract)
        assert store.steps == [2, 3]
    assert len(str(e.value)) < 600 and "\n" not in str(e.value)


def test_another_model_is_named(tiny, saved, one_device):
    other = dataclasses.replace(tiny, d_ff=64)
    with checkpoint.Checkpoints(saved, LAST_TWO) as store:
        with pytest.raises(InputError, match="does not fit this model"):
            store.restore_newest(step.abstract_state(other, TX, one_device))
        with pytest.raises(InputError, match="do not fit this model"):
            store.params(3, transformer.abstract_params(other))
        assert store.steps == [2, 3]
    gc.collect()  # what orbax left of its other reads, while this test ignores it


# Disk.


def test_without_moments_the_parameters_remain(saved, state, abstract, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(saved, directory)
    before = size(directory / "3")
    with checkpoint.Checkpoints(directory, LAST_TWO) as store:
        store.drop_moments()
        store.drop_moments()
        equal(store.params(3, abstract.params), state.params)
        assert store.position(3) == POSITION
        with pytest.raises(InputError, match="holds parameters only.* moments were deleted"):
            store.restore_newest(abstract)
    assert size(directory / "3") == before - size(saved / "3" / "optimiser")
    assert size(saved / "3" / "optimiser") > size(saved / "3" / "params")
    assert not (tmp_path / "damaged").exists()


def test_a_kill_while_moments_are_dropped_is_made_good(saved, abstract, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(saved, directory)
    (directory / "2" / "optimiser").rename(directory / "2" / "optimiser.dropped")
    with checkpoint.Checkpoints(directory, LAST_TWO) as store:
        store.drop_moments()
        store.params(2, abstract.params)
    assert all(list((directory / n / "optimiser.dropped").iterdir()) == [] for n in "23")


def test_a_full_disk_is_said_owed_and_made_good(state, abstract, tmp_path):
    said = []
    need = sum(x.nbytes for x in jax.tree.leaves(state))
    with small_disk.mounted(tmp_path / "disk", 4 * need + (1 << 20)) as disk:
        with checkpoint.Checkpoints(disk / "checkpoints", LAST_TWO, said.append) as store:
            store.save(1, numbered(state, 1), POSITION)
            store.wait()
            assert not store.owed and said == []
            small_disk.fill(disk, leave=need // 2)
            store.save(2, numbered(state, 2), POSITION)
            store.wait()
            assert store.owed and store.steps == [1]
            assert len(said) == 1 and "step 2" in said[0] and "No space left on device" in said[0]
            assert int(store.restore_newest(abstract)[0].step) == 1
            small_disk.fill(disk, leave=0)
            store.save(3, numbered(state, 3), POSITION)
            store.wait()
            assert store.owed and len(said) == 2
            small_disk.free(disk)
            store.save(3, numbered(state, 3), POSITION)
            store.wait()
            assert not store.owed and store.steps == [1, 3], said
            equal(store.restore_newest(abstract)[0], numbered(state, 3))
    gc.collect()


def test_what_settles_a_stage_keeps_its_score(state, tmp_path):
    """The save after the last step may be the one that a full disk refused."""
    with checkpoint.Checkpoints(tmp_path / "checkpoints", LAST_TWO) as store:
        store.save(1, numbered(state, 1), POSITION, 0.25)
        store.settle(2, numbered(state, 2), POSITION, 0.5)
        assert (store.steps, store.best, store.best_score) == ([1, 2], 2, 0.5)


def test_what_is_no_fault_of_the_disk_is_raised(state, tmp_path):
    with checkpoint.Checkpoints(tmp_path, LAST_TWO) as store:
        with pytest.raises(TypeError, match="not JSON serializable"):
            store.save(1, state, {"position": object()})
        assert not store.owed
