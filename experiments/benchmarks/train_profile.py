"""Where the time of an update goes on CPU: XLA's own record of it, by part of the model.

A part of `experiments.benchmarks.train`. Every instruction of the compiled program carries
the path of the code that it comes from; the profiler tells how long each ran, loops left out
because what is in them is counted. Percentages are of the sum of all instructions' times,
which on several threads can be a little more than the clock's.
"""

import collections
import os
import pathlib
import re
import tempfile

import jax

# From the first that matches: the part, and what is looked for in "path opcode".
PARTS = (
    ("optimiser and norms of the gradient", r"^jit\(\w+\)/(?!while)"),
    ("vocabulary: scores", r"RD,CD->RC/"),
    ("vocabulary: gradients", r"R[DC],[RC][DC]->[RC]D/|RC,RD->CD/"),
    ("attention", r"closed_call/(closed_call|while)|_attend/(closed_call|while|broadcast|reduce_sum)"),
    ("weights: forward again", r"rematted.*->.*/dot_general"),
    ("weights: gradients", r"transpose\(jvp.*->.*/(dot_general|transpose)"),
    ("weights: forward", r"->.*/dot_general"),
    ("norms", r"norm/"),
    ("attention's layouts and rotary", r"_attend/"),
    ("SwiGLU", r"_mlp/"),
    ("residual sums", r"Block/add"),
    ("slices and stacks of the layers' scan", r"dynamic_(update_)?index_in_dim"),
    ("vocabulary: softmax", r"^jit\(\w+\)/while/body/(transpose\()?jvp\(\)\)?/(?!.*(Block|checkpoint))"),
    ("embedding", r"gather|scatter"),
    ("sum over microbatches", r"^\S*while/body/add "),
)
CONTROL = ("while", "call", "conditional", "tuple", "get-tuple-element", "bitcast", "parameter")


def prepare() -> None:
    """Let XLA say what runs when; before the first computation of the process."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_enable_xprof_traceme=true"


def measure(update, program: str) -> dict[str, tuple[str, float, int]]:
    """Instruction -> ("path opcode", seconds, runs) of one call of `update`.

    `program` is the compiled program's text.
    """
    origins = {}
    for line in program.splitlines():
        if found := re.match(r"\s*(?:ROOT )?%(\S+) = .*? ([a-z][\w-]*)\(", line):
            path = re.search(r'op_name="([^"]*)"', line)
            if found[2] not in CONTROL:
                origins[found[1]] = f"{path[1] if path else ''} {found[2]}"
    seconds, runs = collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        with jax.profiler.trace(name):
            update()
        trace = next(pathlib.Path(name).rglob("*.xplane.pb"))
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for event in (event for line in plane.lines for event in line.events):
                if event.name in origins:
                    seconds[event.name] += event.duration_ns * 1e-9
                    runs[event.name] += 1
    return {name: (origins[name], seconds[name], runs[name]) for name in seconds}


def part(origin: str) -> str:
    """The part that an instruction belongs to."""
    for name, pattern in PARTS:
        if re.search(pattern, origin):
            return name
    return "copies and the rest"


def table(found: dict, longest: int = 0) -> str:
    """Parts by their time; after them the `longest` instructions."""
    total, by_part = sum(s for _, s, _ in found.values()), collections.Counter()
    for origin, seconds, _ in found.values():
        by_part[part(origin)] += seconds
    lines = [f"{100 * s / total:5.1f} %  {s:7.3f} s  {name}" for name, s in by_part.most_common()]
    slowest = sorted(found.items(), key=lambda item: -item[1][1])[:longest]
    lines += [f"  {s:7.3f} s {n:5} x  {name}: {part(o)}: {o[-90:]}" for name, (o, s, n) in slowest]
    return "\n".join([*lines, f"sum {total:.2f} s"])
