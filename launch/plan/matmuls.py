"""The matmuls that a traced program executes, recomputation included, and a floor on their time.

Counted from the program as traced and not as compiled: a compiler's own count takes the
body of a loop once, whatever its length.
"""

import dataclasses
import math

import jax

from aster_jax.model import attention

LOOPS = ("while",)  # of unknown length: the body is counted once


@dataclasses.dataclass(frozen=True)
class Matmul:
    """FLOPs, bytes of operands and result, and how often, over all devices."""

    flops: int
    bytes: int
    times: int


def of(jaxpr, times: int = 1) -> list[Matmul]:
    """All matmuls of a (closed) jaxpr, in order, those of inner programs included."""
    found = []
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if eqn.primitive.name == "dot_general":
            one = _matmul(eqn, times)
            hidden = attention.WHOLE in str(eqn.source_info.name_stack)
            found.append(_without_scores(eqn, one) if hidden else one)
            continue
        often = times * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    found += of(inner, often)
    return found


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
    """Those of a traced program."""
    return of(program.jaxpr)
