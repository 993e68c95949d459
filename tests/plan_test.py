"""The plan of a run: hand-counted programs and times, and whole runs compiled for absent devices."""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from aster_jax import config as config_module
from aster_jax import config_check
from aster_jax import mesh as meshes
from aster_jax.model import config
from experiments import aster_1p7b, aster_4b, smoke
from launch.plan import absent, chips, estimate, matmuls, programs, remedies, report

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = """
HloModule made

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%layer (p: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %g = bf16[8,64]{1,0} all-gather(%x), channel_id=1, dimensions={1}
  %r = (f32[4,4]{1,0}, f32[2]{0}) all-reduce(%y, %z), to_apply=%add
}

%micro (p: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %w = (s32[], bf16[8,4]) while(%t), condition=%c, body=%layer, backend_config={"known_trip_count":{"n":"36"}}
  %s = (f32[4]{0}, f32[64]{0}) all-gather-start(%q), channel_id=3
  %d = f32[64]{0} all-gather-done(%s)
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %l = (s32[], bf16[8,4]) while(%t), condition=%c, body=%micro
  ROOT %e = f32[2]{0} copy(%p)
}
"""


def wanted(c, topology, **changes):
    chip = chips.chip(topology)
    made = report.Wanted(c, topology, chip, estimate.Assumed(), chip.memory)
    return dataclasses.replace(made, **changes)


def test_collectives_of_loops_are_multiplied_out():
    assert absent.collectives(TEXT) == {
        "all-gather": {"count": 36 + 1, "bytes": 36 * 8 * 64 * 2 + 64 * 4},
        "all-reduce": {"count": 36, "bytes": 36 * (16 + 2) * 4},
    }
    assert absent.collectives("") == {}


def test_matmuls_of_loops_and_recomputation_by_hand():
    """[8, 16] x [16, 4] five times over, once more for the gradient and twice in it."""

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(x, w):
        return jnp.sin(x @ w @ w.T), None

    def loss(x, ws):
        return jax.lax.scan(body, x, ws)[0].sum()

    x, ws = jnp.ones((8, 16)), jnp.ones((5, 16, 4))
    one = 2 * 8 * 16 * 4
    forward = matmuls.of(jax.make_jaxpr(loss)(x, ws))
    assert matmuls.flops(forward) == 5 * 2 * one
    assert matmuls.bytes_moved(forward) == 5 * 4 * 2 * (8 * 16 + 16 * 4 + 8 * 4)
    both = matmuls.of(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, ws))
    assert matmuls.flops(both) == 5 * (2 + 2 + 4) * one
    # Either the arithmetic or the memory is what a matmul waits for.
    (first, *_) = forward
    assert matmuls.seconds([first], one, 1e12) == pytest.approx(5.0)
    assert matmuls.seconds([first], 1e12, first.bytes) == pytest.approx(5.0)


def test_matmuls_by_hand_on_all_devices():
    """[8, 16] x [16, 4], half of the rows on each of two devices, in copies on four more."""
    mesh = meshes.build(2, 1, 1, jax.devices()[:4], context=2)
    rows = jax.sharding.PartitionSpec("data")
    by_hand = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(rows, jax.sharding.PartitionSpec()), out_specs=rows
    )
    x, w = jnp.ones((8, 16)), jnp.ones((16, 4))
    copies = 2
    found = jax.make_jaxpr(by_hand)(x, w)
    assert matmuls.flops(matmuls.of(found)) == copies * 2 * 8 * 16 * 4


def test_the_train_step_executes_what_is_written_down():
    """Per token: 6 FLOPs per weight and 2 more for remat, and attention over half of a row.

    The last matmul of a block is not computed again: nothing needs its result. The gradient of
    a norm has a sum that is a matmul on a CPU.
    """
    c = smoke.get_config()
    c.model.remat = True
    c.rl.micro_rows = 8
    cfg, mesh = programs.model(c), meshes.build(8, 1, 1)
    step = next(p for p in programs.of_run(c, cfg, mesh) if p.name == "rl1+rl2 step")
    counted = matmuls.flops(matmuls.traced(step.counted()))
    layer = 2 * cfg.num_heads * cfg.head_dim + 2 * cfg.num_kv_heads * cfg.head_dim
    weights = cfg.num_layers * cfg.d_model * (layer + 3 * cfg.d_ff)
    table = cfg.vocab_size * cfg.d_model  # its scores are computed again too
    attention = cfg.num_layers * 2 * cfg.num_heads * cfg.head_dim * 256 / 2
    last = cfg.num_layers * cfg.d_ff * cfg.d_model
    heads = cfg.num_layers * (cfg.num_heads + cfg.num_kv_heads) * cfg.head_dim
    norms = (2 * cfg.num_layers + 1) * cfg.d_model + heads * cfg.qk_norm
    assert counted == 8 * 256 * (8 * (weights + attention + table) - 2 * last + 2 * norms)


def test_bytes_by_hand():
    c = smoke.get_config()
    cfg, mesh = programs.model(c), meshes.build(2, 2, 2)
    count = 4 * (1024 * 64)  # the table is split four ways, the rest likewise but for norms
    params, moments = programs.state_bytes(c, cfg, mesh)
    assert params > count // 4 and moments == 2 * params + 3 * 4  # three counts of steps
    c.sft.moments_dtype = c.rl.moments_dtype = "bfloat16"
    assert programs.state_bytes(c, cfg, mesh) == (params, params + 3 * 4)
    assert programs.reference_bytes(c, cfg, mesh) == 0
    before = {p.name: p.beside for p in programs.of_run(c, cfg, mesh)}
    c.rl.kl_coef = 1e-3  # the stage's first policy is kept beside all of RL
    after = {p.name: p.beside for p in programs.of_run(c, cfg, mesh)}
    assert programs.reference_bytes(c, cfg, mesh) == params
    assert {name: after[name] - bytes for name, bytes in before.items()} == {
        name: 0 if name == "sft step" else params for name in before
    }
    assert after["rl1+rl2 old log-probs"] == (params + 3 * 4) + params
    weights, cached = programs.rollout_bytes(c, cfg, mesh)
    pages = 6_144 // 32 // 4
    assert cached == pages * 32 * 2 * 2 * (2 // 2) * 32 * 4
    assert params < weights < 4 * params  # whole width, half of the heads and units


def test_a_config_that_does_not_fit_says_what_would(tmp_path):
    """A pool too large for its device: half of it, compiled again, fits."""
    c = smoke.get_config()
    lines = []
    whole = report.make(wanted(c, "cpu:8", only="decode"), lines.append)
    needed = whole["programs"]["decode"]["total"]
    assert set(whole["programs"]) == {"decode"} and not whole["programs"]["decode"]["why_not"]
    assert whole["bytes"]["cache"] < needed and whole["chips"] == 8
    with c.unlocked():
        c.rollout.pool_tokens = 4 * 6_144
    tight = wanted(c, "cpu:8", only="decode", memory=1.2 * needed)
    found = report.make(tight, lines.append)
    assert "that a device has" in found["programs"]["decode"]["why_not"]
    remedy = found["remedies"]["decode"]
    assert remedy["changes"]["rollout.pool_tokens"] in (2 * 6_144, 6_144)
    assert "does not fit: decode" in report.foot(found)
    assert any("fits with --config.rollout.pool_tokens=" in line for line in lines)


def test_remedies_for_training_come_in_order():
    c = smoke.get_config()
    c.mesh.fsdp = 2
    c.sft.micro_rows = c.rl.micro_rows = 8
    tried = remedies.candidates(c, "update")
    assert tried[0] == {"model.remat": True}
    assert tried[1] == {"model.remat": True, "sft.micro_rows": 4, "rl.micro_rows": 4}
    assert tried[-1]["mesh.tensor"] == 2 and tried[-1]["mesh.fsdp"] == 1
    # Two devices to a row are one row at a time.
    longer = {"mesh.fsdp": 1, "mesh.context": 2, "sft.micro_rows": 1, "rl.micro_rows": 1}
    assert tried[-2] == tried[0] | longer
    assert remedies.changed(c, tried[1]).rl.micro_rows == 4 and c.rl.micro_rows == 8


def test_hours_by_hand():
    """One row per chip under way, 100 tokens a row: weights and half a row of cache per token."""
    c = smoke.get_config()
    cfg, mesh = programs.model(c), meshes.build(8, 1, 1)
    chip = chips.Chip("made", 1e9, 1e12, 1e9)
    assumed = estimate.Assumed(flop_share=1.0, byte_share=1.0, mean_share=0.5, written_share=0.5)
    with c.unlocked():
        c.rollout.slots, c.stages = 8, ("rl1",)
    (stage,) = estimate.stages(c, cfg, mesh, chip, {"rl1 step": 2.0, "rl2 step": 9.0}, assumed)
    weights, _ = programs.rollout_bytes(c, cfg, mesh)
    token = 2 * 2 * 2 * 32 * 4  # keys and values of 2 layers, 2 heads of 32, float32
    steps = 32 / 8 * 64
    prefill = 2 * report.transformer.count_params(cfg) * 32 * 64 / (8 * 1e12)
    assert stage.rollout_s == pytest.approx(steps * (weights + 64 * token) / 1e9 + prefill)
    assert stage.update_s == 2.0 * 2  # 4,096 tokens in rows of 256, 8 of them at a time
    assert stage.hours == pytest.approx(3 * (stage.rollout_s + 4.0) / 3600)


@pytest.mark.parametrize("made", [aster_4b, aster_1p7b])
def test_the_papers_runs_have_the_same_share_per_device_on_any_number(made):
    for devices in ("16", "64"):
        c, n = made.get_config(devices), int(devices)
        config_check.validate(c)
        assert (c.mesh.fsdp, c.rl.micro_rows, c.sft.micro_rows) == (n, n, n)
        assert c.rollout.pool_tokens == 131_072 * n and c.rollout.slots % n == 0
        # The paper's shapes: 128 problems x 8 trajectories, of 18,432 tokens and then 32,768.
        for stage, tokens in (("rl1", 18_432), ("rl2", 32_768)):
            keys = config_module.rl_stage(c, stage)
            assert (keys.prompts, keys.group) == (128, 8)
            assert keys.context_tokens == keys.row_tokens == tokens


@pytest.mark.parametrize("made", [aster_4b, aster_1p7b])
def test_the_papers_sizes_come_without_weights(made):
    c = made.get_config()
    cfg = programs.model(c)
    assert cfg == dataclasses.replace(
        config.PRESETS["qwen3_4b_thinking_2507" if made is aster_4b else "qwen3_1p7b"],
        remat=True, compute_dtype="bfloat16",
    )  # fmt: skip


@pytest.mark.parametrize(
    "topology, complaint",
    [("v5p", "is not known"), ("v9:2x2", "is not known"), ("cpu:x", "the number of devices")],
)
def test_topologies_that_are_none_are_refused(topology, complaint):
    with pytest.raises(ValueError, match=complaint):
        chips.environment(topology, "unused")


def test_a_refusal_is_one_sentence():
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (512.00G) exceeds available HBM (95.73G). HLO module: "
        "jit__lambda.\n\nSee https://openxla.org/xla/errors/error_1000 for more details."
    )
    assert absent.sentence(message) == (
        "Ran out of memory on HBM, the total memory required for HLO temporaries (512.00G) exceeds "
        "available HBM (95.73G)"
    )


def plan(*arguments, limit=3600):
    command = [sys.executable, "-m", "launch.plan", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)


def test_the_command_plans_and_refuses():
    done = plan("--config", "experiments/smoke.py", "--topology", "cpu:8", "--json", "--only", "adopt")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["mesh"] == {"data": 8, "fsdp": 1, "context": 1, "tensor": 1}
    assert set(found["programs"]) == {"adopt weights"} and found["rows"]["slots"] == 32
    wrong = plan("--config", "aster_4b", "--topology", "cpu:8")
    assert wrong.returncode == 1 and "does not use the 8 devices" in wrong.stderr
    absent_ = plan("--config=aster_5b", "--topology", "cpu:8")
    assert absent_.returncode == 1 and "did you mean aster_4b?" in absent_.stderr
    assert "Traceback" not in wrong.stderr + absent_.stderr


@pytest.mark.parametrize(
    "key, value, complaint",
    [("sft.micro_rows", 4, "sft.micro_rows=4 must be a multiple of the 8"), ("rollout.slots", 12, "slots=12")],
)
def test_sizes_that_do_not_divide_over_the_devices_are_refused(key, value, complaint):
    c = smoke.get_config()
    c.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=complaint):
        report.make(wanted(c, "cpu:8"), lambda text: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment, topology, most",
    [("aster_4b", "v5p:4x4x4", 20), ("aster_1p7b", "v6e:4x4", 20)],
)
def test_the_papers_runs_fit_their_own_chips(experiment, topology, most):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the compiler is not installed: pip install libtpu==0.0.52")
    done = plan("--config", f"experiments/{experiment}.py", "--topology", topology, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    names = {"sft step", "rl1 step", "rl2 step", "rl2 old log-probs", "adopt weights", "decode"}
    assert names <= set(found["programs"])
    for name, one in found["programs"].items():
        print(experiment, topology, name, one)
        assert not one["why_not"], (name, one["why_not"])
        assert one["temporaries"] < most * chips.GIB, name
