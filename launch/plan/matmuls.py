"""The matmuls that a traced program executes, recomputation included, and a floor on their time.

Counted from the program as traced and not as compiled: a compiler's own count takes the
body of a loop once, whatever its length. What attention in loops and kernels skips depends on
the data: it is counted from all scores at once (`ModelConfig.training_attention` "whole").
"""

import dataclasses
import math

import jax

from aster_jax.model import attention


@dataclasses.dataclass(frozen=True)
class Matmul:
    """FLOPs, bytes of operands and result, and how often, over all devices."""

    flops: int
    bytes: int
    times: int


def of(jaxpr, times: int = 1) -> list[Matmul]:
    """All matmuls of a (closed) jaxpr, in order, those of inner programs included.

    The body of a loop of unknown length (`while`) is counted once; of what each device does by
    hand (`shard_map`), all devices' together.
    """
    found = []
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if eqn.primitive.name == "dot_general":
            one = _matmul(eqn, times)
            hidden = attention.WHOLE in str(eqn.source_info.name_stack)
            found.append(_without_scores(eqn, one) if hidden else one)
            continue
        often = times * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
        if eqn.primitive.name == "shard_map":
            sizes = eqn.params["mesh"].shape
            often *= math.prod(sizes[axis] for axis in eqn.params["newly_manual_axes"])
        for inner in _inner(eqn):
            found += of(inner, often)
    return found


def _inner(eqn) -> list:
    """The programs that an equation runs."""
    values = [v for x in eqn.params.values() for v in (x if isinstance(x, tuple | list) else (x,))]
    return [v for v in values if hasattr(v, "eqns") or hasattr(v, "jaxpr")]


def _matmul(eqn, times) -> Matmul:
    left, right = (v.aval for v in eqn.invars)
    (out,) = (v.aval for v in eqn.outvars)
    (contracted, _), _ = eqn.params["dimension_numbers"]
    depth = math.prod(left.shape[axis] for axis in contracted)
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in (left, right, out))
    return Matmul(2 * depth * math.prod(out.shape), size, times)


def _without_scores(eqn, one) -> Matmul:
    """Of attention: half of the scores lie behind their query, and none leave the kernel."""
    arrays = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    scores = max(math.prod(x.shape) * x.dtype.itemsize for x in arrays)
    return Matmul(one.flops // 2, one.bytes - scores, one.times)


def flops(matmuls: list[Matmul]) -> int:
    """FLOPs of all of them."""
    return sum(m.flops * m.times for m in matmuls)


def bytes_moved(matmuls: list[Matmul]) -> int:
    """Bytes of all operands and results, each read or written once."""
    return sum(m.bytes * m.times for m in matmuls)


def seconds(matmuls: list[Matmul], flop_rate: float, byte_rate: float) -> float:
    """One after another, each as long as its FLOPs or its bytes take, whichever is longer."""
    return sum(m.times * max(m.flops / flop_rate, m.bytes / byte_rate) for m in matmuls)


def traced(program: jax.stages.Traced) -> list[Matmul]:
    """Those of a traced program, but for its kernels'."""
    return of(program.jaxpr)
