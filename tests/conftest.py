"""How every test runs: on the CPU, as 8 virtual devices, with the same small models.

The environment is set before anything imports jax. Implicit rank promotion is an error,
as a forgotten axis is the commonest way to a wrong number that still runs. The programs
are tiny and run once, so XLA's expensive optimisations are off: compiling is the cost.
"""

import os
import pathlib

FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()

import jax  # noqa: E402
import pytest  # noqa: E402

from aster_jax import mesh as meshes  # noqa: E402
from aster_jax.model import config, transformer  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


# Test files that look at the same run of the smoke experiment (tests/smoke_run.py).
ONE_SMOKE_RUN = {
    "pipeline_smoke_test", "resume_test", "one_workdir_test", "several_processes_test",
    "served_teacher_test",
}  # fmt: skip


# Files that take a minute or more. With these first no process is left alone with one at the end.
LONGEST = {
    "kernels_test", "logprobs_test", "engine_test", "blame_test", "packed_attention_test",
    "step_test", "interleaving_test",
}  # fmt: skip


def pytest_collection_modifyitems(config, items):
    """With `-n 2`, the longest files first; xdist's own order goes by the number of tests."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda i: (i.path.stem not in ONE_SMOKE_RUN, i.path.stem not in LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n 2`, a file's tests stay in one process: they share what was compiled.

    xdist's own `loadgroup` and marks do nothing with pytest 9.2, which names tests otherwise.
    """
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = pathlib.PurePath(nodeid.partition("::")[0])
            return "smoke_run" if path.stem in ONE_SMOKE_RUN else str(path)

    return ByFile(config, log)


@pytest.fixture(scope="session")
def tiny() -> config.ModelConfig:
    """A Qwen3-like model with every feature: grouped heads, head size of its own, QK-norm."""
    return config.ModelConfig(
        vocab_size=48,
        num_layers=2,
        d_model=32,
        d_ff=48,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rope_theta=100.0,
        rms_norm_eps=1e-6,
        tie_embeddings=True,
        qk_norm=True,
        max_positions=4096,
    )


@pytest.fixture(scope="session")
def params(tiny):
    """Random parameters whose scores are spread enough that choices are not ties."""
    made = jax.jit(transformer.init_params, static_argnums=0)(tiny, jax.random.key(7))
    return {**made, "embed": {"w": made["embed"]["w"] * 20.0}}


@pytest.fixture(scope="session")
def one_device():
    """A mesh of a single device."""
    return meshes.build(1, 1, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def eight_devices():
    """A mesh in which every axis but `context` has two devices."""
    return meshes.build(2, 2, 2, devices=jax.devices()[:8])
