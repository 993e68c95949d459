"""Seconds and hours of a run, from what its programs execute and what is assumed of chips.

Arithmetic and no measurement: every assumption is a field of `Assumed`, shown with its
source wherever a number is shown. Time of tools, verifiers, checkpoints and compiling is
left out, and what chips say to each other is taken to hide behind the matmuls.
"""

import dataclasses
import math

from aster_jax import config as configs
from aster_jax import mesh as meshes
from aster_jax import settings
from aster_jax.model import cache, transformer
from launch.plan import programs


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What no compiler says.

    flop_share, byte_share: of the chip's peak FLOP/s and of its memory's bandwidth that
    matmuls reach. mean_share: of its budget of tokens that a trajectory uses on average.
    written_share: of a trajectory's tokens that the model writes itself.
    """

    flop_share: float = 0.45
    byte_share: float = 0.7
    mean_share: float = 0.5
    written_share: float = 0.8

    def sentences(self) -> list[str]:
        """Each with its source."""
        return [
            f"matmuls reach {self.flop_share:.0%} of the peak FLOP/s, with what remat repeats: MaxText "
            "states 45.5 % for Llama-3.1-8B on 256 v6e (docs/reference/models/tiering.md); the 4B "
            "update reached about 52 % in rows of 18,432 and 46 % in rows of 32,768 on one H200 "
            "(39 and 34 % without repetitions, of the data sheet's 989 TFLOP/s)",
            f"memory is read at {self.byte_share:.0%} of its bandwidth: ours, not measured",
            f"a trajectory uses {self.mean_share:.0%} of its budget of tokens on average, and the "
            f"model writes {self.written_share:.0%} of them: ours; it depends on the policy",
            "every trajectory of a step is trained on; groups that agree make it cheaper",
            "time of tools, verifiers, checkpoints and of exchanges between chips is left out",
        ]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: its steps, and seconds of one step by part."""

    name: str
    steps: int
    rollout_s: float
    update_s: float

    @property
    def hours(self) -> float:
        """Of the whole stage."""
        return self.steps * (self.rollout_s + self.update_s) / 3600


def rows(c, cfg, mesh, assumed: Assumed) -> dict[str, float]:
    """Rows under way at once, on all devices: slots, and what the pool holds."""
    r, shards = c.rollout, meshes.batch_shards(meshes.for_rollouts(mesh))
    sizes = settings.engine_sizes(r)
    pages = sizes.pool_pages(shards) * shards

    def held(tokens):
        return pages // math.ceil(tokens / r.page_tokens)

    stages = {s: configs.rl_stage(c, s) for s in ("rl1", "rl2") if s in c.stages}
    found = {"slots": r.slots, f"full rows of {r.capacity}": held(r.capacity)}
    for name, keys in stages.items():
        mean = int(assumed.mean_share * keys.context_tokens)
        found[f"{name}, mean rows of {mean}"] = min(r.slots, held(mean))
    return found


def stages(c, cfg, mesh, chip, micro_s: dict[str, float], assumed: Assumed) -> list[Stage]:
    """Every stage that trains or samples. `micro_s`: seconds of one microbatch by program."""
    found = []
    if "sft step" in micro_s:
        # Packed: how many rows the demonstrations fill is known once they are there.
        samples = math.ceil(c.sft.epochs * c.demos.count * assumed.mean_share / c.sft.rows)
        steps = samples if c.sft.epochs else c.sft.steps
        found.append(Stage("sft", steps, 0.0, c.sft.rows / c.sft.micro_rows * micro_s["sft step"]))
    for name in ("rl1", "rl2"):
        if name in c.stages:
            keys = configs.rl_stage(c, name)
            update = _update_s(name, keys, micro_s, assumed)
            sampled = _phase_s(c, cfg, mesh, chip, keys, keys.prompts * keys.group, assumed)
            found.append(Stage(name, keys.steps, sampled, update))
    if "eval" in c.stages:
        e = c.eval
        asked = (c.problems.num_heldout or 30) * e.samples * len(e.checkpoints)
        arms = 1 + e.no_tool + e.think
        phase = _phase_s(c, cfg, mesh, chip, e, asked, assumed)
        found.append(Stage("eval", arms, phase, 0.0))
    return found


def _update_s(name, keys, micro_s, assumed) -> float:
    """Microbatches that a step's trajectories fill, times what one takes in each program."""
    tokens = keys.prompts * keys.group * assumed.mean_share * keys.context_tokens
    micro = math.ceil(tokens / keys.row_tokens / keys.micro_rows)
    return micro * sum(s for program, s in micro_s.items() if is_of(program, name))


def is_of(program: str, stage: str) -> bool:
    """Whether a program is one of a stage's: "rl1+rl2 step" is of both."""
    return stage in program.split(" ")[0].split("+")


def _phase_s(c, cfg, mesh, chip, keys, trajectories, assumed) -> float:
    """Decoding all trajectories of a phase, and the longest of them to its end.

    A decode step reads the weights once and the cache of its rows; a device's own rows are
    all that it waits for. Prompts and tool results cost 2 FLOPs per parameter and token.
    """
    shards = meshes.batch_shards(meshes.for_rollouts(mesh))
    weights, _ = programs.rollout_bytes(c, cfg, mesh)
    heads = mesh.shape["tensor"] if meshes.kv_heads_axis(cfg, mesh) else 1
    per_token = cache.bytes_per_token(cfg, c.rollout.dtype) / heads
    mean = assumed.mean_share * keys.context_tokens
    written = min(assumed.written_share * mean, keys.response_tokens)
    pool = settings.engine_sizes(c.rollout).pool_pages(shards) * c.rollout.page_tokens
    at_once = min(c.rollout.slots / shards, pool / mean, math.ceil(trajectories / shards))
    byte_rate = assumed.byte_share * chip.bandwidth
    # A row is half as long as it will be, on average over its life.
    step_s = (weights + at_once * mean / 2 * per_token) / byte_rate
    steps = trajectories / shards / at_once * written
    alone_s = (weights + keys.context_tokens * per_token) / byte_rate
    tail = max(0.0, keys.response_tokens - steps)
    read = trajectories * (mean - written)
    flops = 2 * transformer.count_params(cfg) * read
    prefill_s = flops / (mesh.size * assumed.flop_share * chip.flops)
    return steps * step_s + tail * alone_s + prefill_s
