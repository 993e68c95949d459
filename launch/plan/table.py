"""`python -m launch.plan.table --folder plans`: whether the paper's runs fit, chip by chip.

For every experiment and topology: finds a mesh, compiles the largest programs of both RL
stages for it one after another, and writes a table (`--folder`/TABLE.md). Each compilation
is a process of its own whose answer is kept as a file: stopped at any time, the same command
goes on where it was. A program of billions of parameters takes minutes.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
from absl import app, flags
from ml_collections import ConfigDict

from aster_jax.errors import InputError
from launch.plan import absent, chips, estimate, programs, remedies, sizes
from launch.plan.chips import GIB

TOPOLOGIES = ("v6e:4x4", "v5p:2x2x4", "v5e:4x4", "v5p:4x4x4", "h100:8")
MOST_CHIPS = 64  # described at once
_CONFIGS = flags.DEFINE_list(
    "configs", ["experiments/aster_1p7b.py", "experiments/aster_4b.py"], "experiments"
)
_TOPOLOGIES = flags.DEFINE_list("topologies", list(TOPOLOGIES), "as of launch.plan")
_FOLDER = flags.DEFINE_string("folder", None, "where answers are kept, and the table is written")
_MESHES = flags.DEFINE_integer("meshes", 3, "meshes compiled for at most, where none fits")


def loaded(path: str) -> ConfigDict:
    """An experiment's config, without its evaluations: they sample as training does."""
    name = path.removesuffix(".py").replace("/", ".")
    c = __import__(name, fromlist=["get_config"]).get_config()
    c.stages = tuple(stage for stage in c.stages if stage not in ("eval", "report"))
    return c


def asked(folder: pathlib.Path, path: str, topology: str, sized: sizes.Sized, name: str) -> dict:
    """What launch.plan answers for one program ("hours": for none, but for their times).

    Kept under a name that has all of the question in it. {"failed": why}, which is not kept,
    where there is no answer: a compiler that is not installed, a process that was killed.
    """
    question = [pathlib.Path(path).stem, topology, name, *sized.flags()]
    kept = folder / (re.sub(r"[^\w.=]+", "_", "-".join(question)).replace("config.", "") + ".json")
    if kept.exists():
        return json.loads(kept.read_text())
    print(f"{kept.stem} ...", flush=True)
    only = "nothing" if name == "hours" else name
    stages = ",".join(repr(s) for s in loaded(path).stages)
    command = [
        sys.executable, "-m", "launch.plan", "--config", path, "--topology", topology, "--json",
        "--only", only, "--tries=0", "--nocollectives", f"--hours={name == 'hours'}", f"--config.stages=({stages})",
        *sized.flags(),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    answer = json.loads(done.stdout) if done.returncode == 0 else {"failed": lines[-1]}
    if done.returncode == 0:
        kept.with_suffix(".partial").write_text(json.dumps(answer, indent=1))
        kept.with_suffix(".partial").replace(kept)
    return answer


def largest(c: ConfigDict, chips_: int) -> list[str]:
    """The programs of a run that decide whether it fits: the RL step of the longest rows, the
    engine's, and the other RL step. SFT's step and the old log-probs are no larger."""
    cfg = programs.model(c)
    names = [p.name for p in programs.of_run(c, cfg, absent.build(f"cpu:{chips_}", c.mesh))]
    steps = [n for n in names if n.endswith(" step") and n.startswith("rl")]
    prefills = [n for n in names if n.startswith("prefill")]
    return [*steps[-1:], "adopt weights", prefills[-1], "decode", *steps[:-1]]


def found(folder: pathlib.Path, path: str, topology: str, meshes: int) -> dict:
    """Programs by name, sizes and times on the first mesh on which everything fits, else on
    the last one tried; `refused`: why not on those before."""
    c, chip, count = loaded(path), chips.chip(topology), sizes.chips_of(topology)
    made, refused = sizes.candidates(c, count, chip.memory)
    answer: dict = {"programs": {}, "asked": [], "sized": None, "hours": {}}
    for sized in made[:meshes]:
        known = {}
        names = largest(remedies.changed(c, sized.changes), count)
        for name in names:
            one = asked(folder, path, topology, sized, name)
            known[name] = one["programs"][name] if "programs" in one else one
            if why_not(known[name]):
                break
        hours = asked(folder, path, topology, sized, "hours")
        answer = {"programs": known, "asked": names, "sized": sized, "hours": hours}
        if not any(map(why_not, known.values())):
            break
        name, one = list(known.items())[-1]
        refused.append(f"{shape(sized)}: {name}: {why_not(one)}")
    return answer | {"refused": refused, "chip": chip, "config": c, "topology": topology}


def why_not(one: dict) -> str:
    """Why a program does not fit, "" if it does."""
    return one["failed"] if "failed" in one else one["why_not"]


def shape(sized: sizes.Sized) -> str:
    """The axes of a mesh that are more than one device long."""
    axes = {key.removeprefix("mesh."): n for key, n in sized.changes.items() if "mesh." in key}
    return " x ".join(f"{name} {n}" for name, n in axes.items() if n > 1) or "one device"


HEAD = (
    "run", "chips", "mesh", "row", "fits", "training: state + temporary", "sampling: state + weights "
    "+ cache + temporary", "slots, pool", "a step: rollout + update", "hours", "otherwise",
)  # fmt: skip


def rows(of: dict) -> list[tuple[str, ...]]:
    """A line of the table for each RL stage."""
    c, chip, sized = of["config"], of["chip"], of["sized"]
    refused = "; ".join(of["refused"])
    lines = []
    for stage, tokens in (("rl1", c.rl1.context_tokens), ("rl2", c.rl2.context_tokens)):
        start = (c.name, of["topology"], shape(sized) if sized else "none", f"{tokens:,}")
        if sized is None:
            lines.append((*start, "no", "", "", "", "", "", refused))
            continue
        needed = [n for n in of["asked"] if not n.endswith("step") or estimate.is_of(n, stage)]
        ran = {name: of["programs"][name] for name in needed if name in of["programs"]}
        bad = [f"{name}: {why_not(one)}" for name, one in ran.items() if why_not(one)]
        fits = "no" if bad else "yes" if len(ran) == len(needed) else "not known"
        lines.append((
            *start, fits, _training(ran, chip), _sampling(ran, of["hours"], chip),
            f"{sized.changes['rollout.slots']}, {sized.changes['rollout.pool_tokens']:,}",
            *_times(of["hours"], stage), "; ".join([*bad, refused]).strip("; "),
        ))  # fmt: skip
    return lines


def _training(ran, chip) -> str:
    one = next((one for name, one in ran.items() if name.endswith("step")), None)
    if one is None or why_not(one):
        return ""
    held = one["arguments"] + one["outputs"] - one["aliased"]
    return f"{held / GIB:.1f} + {one['temporaries'] / GIB:.1f} of {chip.memory / GIB:.1f} GiB"


def _sampling(ran, hours, chip) -> str:
    if "decode" not in ran or why_not(ran["decode"]) or "bytes" not in hours:
        return ""
    of = hours["bytes"]
    peak = max(one["temporaries"] for name, one in ran.items() if not name.endswith("step"))
    state = of["parameters"] + of["moments"] + of.get("reference policy", 0)
    parts = (state, of["weights while sampling"], of["cache"], peak)
    return " + ".join(f"{n / GIB:.1f}" for n in parts) + f" of {chip.memory / GIB:.1f} GiB"


def _times(hours, stage) -> tuple[str, str]:
    for one in hours.get("stages", ()):
        if one["name"] == stage:
            return f"{one['rollout_s']:.0f} + {one['update_s']:.0f} s", f"{one['hours']:.0f}"
    return "", ""


def markdown(lines: list[tuple[str, ...]]) -> str:
    """A table."""
    ruled = [HEAD, ("---",) * len(HEAD), *lines]
    return "\n".join("| " + " | ".join(cell or " " for cell in line) + " |" for line in ruled) + "\n"


def main(argv: list[str]) -> None:
    """Ask what is not known yet, and write the table after each answer."""
    if len(argv) > 1 or not _FOLDER.value:
        raise InputError("give --folder, where answers are kept; flags start with --")
    folder = pathlib.Path(_FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={MOST_CHIPS}"
    jax.config.update("jax_platforms", "cpu")
    lines = []
    for topology in _TOPOLOGIES.value:
        for path in _CONFIGS.value:
            lines += rows(found(folder, path, topology, _MESHES.value))
            (folder / "TABLE.md").write_text(markdown(lines))
    print(markdown(lines))


if __name__ == "__main__":
    try:
        app.run(main)
    except InputError as e:
        sys.exit(f"launch.plan.table: {e}")
