"""Meshes and sizes that a run could have on so many chips: arithmetic, before any compiler is asked."""

import dataclasses
import math

from ml_collections import ConfigDict

from aster_jax import config as configs
from aster_jax import mesh as meshes
from aster_jax.train import memory
from launch.plan import absent, programs, remedies
from launch.plan.chips import GIB

CONTEXTS, TENSORS = (1, 2, 4, 8), (1, 2, 4)
# Of a chip's memory, what is left to the programs' own temporaries while sampling.
SPARED = 0.15


@dataclasses.dataclass(frozen=True)
class Sized:
    """A config changed to run on a mesh: dotted keys and their new values."""

    changes: dict[str, object]

    def flags(self) -> list[str]:
        """As the command line has them."""
        return [f"--config.{key}={value}" for key, value in self.changes.items()]


def chips_of(topology: str) -> int:
    """Devices of a topology by its name: v5p:2x2x4 has 16."""
    return math.prod(int(n) for n in topology.partition(":")[2].split("x"))


def candidates(c: ConfigDict, chips: int, available: float) -> tuple[list[Sized], list[str]]:
    """(what may fit, the cheapest for speed first; why others cannot), by the known floors.

    All chips hold the parameters between them, one row of a microbatch lies on `context` x
    `tensor` of them. `available`: bytes of a chip. Needs as many devices of any kind.
    """
    found, refused = [], []
    for tensor in TENSORS:
        for context in CONTEXTS:
            if chips % (tensor * context):
                continue
            fsdp = chips // (tensor * context)
            made = {"mesh.data": 1, "mesh.fsdp": fsdp, "mesh.context": context, "mesh.tensor": tensor}
            made |= {"sft.micro_rows": fsdp, "rl.micro_rows": fsdp}
            made["sft.rows"] = -(-c.sft.rows // fsdp) * fsdp
            why_not = _with_rollouts(remedies.changed(c, made), chips, available, made)
            if why_not:
                name = f"fsdp {fsdp} x context {context} x tensor {tensor}"
                refused.append(f"{name}: {why_not}")
            else:
                found.append(Sized(made))
    return found, refused


def _with_rollouts(c, chips, available, made) -> str:
    """Add slots and a pool to `made` that leave room; why there can be none, or ""."""
    cfg = programs.model(c)
    mesh = absent.build(f"cpu:{chips}", c.mesh)
    page = c.rollout.page_tokens
    state = sum(programs.state_bytes(c, cfg, mesh)) + programs.reference_bytes(c, cfg, mesh)
    weights, cached = programs.rollout_bytes(c, cfg, mesh)
    shards = meshes.batch_shards(meshes.for_rollouts(mesh))
    token = cached / (c.rollout.pool_tokens // page // shards * page)
    room = available * (1 - SPARED) - state - weights
    own = int(room / token) if room > 0 else 0
    if own < c.rollout.capacity:
        return (
            f"while sampling {(state + weights) / GIB:.1f} GiB of state and weights leave "
            f"no room for a row of {c.rollout.capacity} tokens"
        )
    own = min(1 << own.bit_length() - 1, c.rollout.pool_tokens // shards)
    asked = max(stage.prompts * stage.group for stage in _stages(c))
    # Four times the full rows: a trajectory is half its budget long, and half of that on average
    # over its life. Where that is too many, rows are set aside.
    slots = max(1, min(4 * own // c.rollout.capacity, -(-asked // shards))) * shards
    made |= {
        "rollout.pool_tokens": own * shards, "rollout.slots": slots,
        "rollout.prefill_rows": shards,
    }  # fmt: skip
    longest = max(stage.row_tokens for stage in _stages(c))
    micro = (c.rl.micro_rows, longest)
    copies = 2 if any(stage.kl_coef for stage in _stages(c)) else 1
    sampled = (own * shards, c.rollout.dtype)
    floor = memory.needed_bytes(cfg, mesh, *sampled, micro, c.rl.moments_dtype, copies)
    if floor["training"] > available:
        return f"in training at least {floor['training'] / GIB:.1f} GiB"
    return ""


def _stages(c):
    return [configs.rl_stage(c, name) for name in ("rl1", "rl2") if name in c.stages]
