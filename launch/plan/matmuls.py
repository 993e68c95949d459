"""The matmuls that a traced program executes, recomputation included, and a floor on their time.

Counted from the program as traced and not as compiled: a compiler's own count takes the
body of a loop once, whatever its length. Kernels are not looked into, as what they skip depends
on the data: `attention` is what theirs comes to.
"""

import dataclasses
import math

import jax

KERNEL = "pallas_call"


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
            found.append(_matmul(eqn, times))
            continue
        often = times * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
        if eqn.primitive.name == "shard_map":
            sizes = eqn.params["mesh"].shape
            often *= math.prod(sizes[axis] for axis in eqn.params["newly_manual_axes"])
        for inner in _inner(eqn) if eqn.primitive.name != KERNEL else ():
            found += of(inner, often)
    return found


def _inner(eqn) -> list:
    """The programs that an equation runs."""
    values = [v for x in eqn.params.values() for v in (x if isinstance(x, tuple | list) else (x,))]
    return [v for v in values if hasattr(v, "eqns") or hasattr(v, "jaxpr")]


def has_kernel(jaxpr) -> bool:
    """Whether a kernel runs somewhere in a (closed) jaxpr."""
    eqns = getattr(jaxpr, "jaxpr", jaxpr).eqns
    return any(e.primitive.name == KERNEL or any(map(has_kernel, _inner(e))) for e in eqns)


def attention(cfg, rows: int, tokens: int, passes: float) -> Matmul:
    """Of a training program's kernels: causal, as if every row were one sequence.

    `passes` over the two products of scores and values: 1 forward, 1 more with remat and 2.5
    backward, where each has two and the scores are made again.
    """
    once = 2 * cfg.num_layers * cfg.num_heads * cfg.head_dim * tokens**2 * rows
    return Matmul(int(passes * once), 0, 1)


def _matmul(eqn, times) -> Matmul:
    left, right = (v.aval for v in eqn.invars)
    (out,) = (v.aval for v in eqn.outvars)
    (contracted, _), _ = eqn.params["dimension_numbers"]
    depth = math.prod(left.shape[axis] for axis in contracted)
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in (left, right, out))
    return Matmul(2 * depth * math.prod(out.shape), size, times)


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
