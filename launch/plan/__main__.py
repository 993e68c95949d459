"""`python -m launch.plan --config NAME --topology v5p:4x4x4 [--config.a.b=value]`.

Compiles every program of a run for devices that are not here, on a machine with a CPU, and
prints what one wants to know before paying: memory by purpose and whether it fits, which
keys would make it fit, collectives, rows under way, and an estimate of the hours.

Topologies: TPUs by generation and shape (v5e:4x4, v5p:2x2x4, v6e:4x4; needs
`pip install libtpu==0.0.52`), h100:N (needs `pip install "jax[cuda13]==0.10.2"`), cpu:N. A
program of billions of parameters takes minutes.
"""

import atexit
import json
import os
import shutil
import sys
import tempfile

import jax
from absl import app, flags
from ml_collections import config_flags

from aster_jax import config_check, experiment
from aster_jax.errors import InputError
from launch.plan import chips, estimate, report

_CONFIG = config_flags.DEFINE_config_file("config", None, "the experiment", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "v5p:4x4x4, v6e:4x4, h100:8, cpu:8, ...")
_JSON = flags.DEFINE_bool("json", False, "print one JSON object instead of lines")
_ONLY = flags.DEFINE_string("only", "", "compile only programs whose name has this, e.g. step")
_HOURS = flags.DEFINE_bool("hours", True, "estimate them, for which every training step is traced")
_COLLECTIVES = flags.DEFINE_bool(
    "collectives", True, "where the compiler cannot print a program, compile it for CPUs to count them"
)
_TRIES = flags.DEFINE_integer("tries", 3, "remedies compiled for a program that does not fit")
_HBM = flags.DEFINE_float("hbm_gib", 0.0, "memory of one device in GiB; 0 takes the known one")
_PRICE = flags.DEFINE_float("price", 0.0, "of one chip for one hour")
_MEAN = flags.DEFINE_float("mean_share", 0.5, "of its budget that a trajectory uses on average")
_FLOPS = flags.DEFINE_float("flop_share", 0.45, "of the peak FLOP/s that matmuls reach")


def main(argv: list[str]) -> None:
    """Plan one run."""
    if len(argv) > 1:
        raise InputError(f"unexpected arguments {argv[1:]}; flags start with --")
    if _CONFIG.value is None or _TOPOLOGY.value is None:
        raise InputError(
            "no experiment or no topology given; add --config experiments/aster_4b.py "
            "--topology v5p:4x4x4"
        )
    config_check.validate(_CONFIG.value)
    chip = chips.chip(_TOPOLOGY.value)
    dump = tempfile.mkdtemp(prefix="plan")
    atexit.register(shutil.rmtree, dump, ignore_errors=True)
    os.environ.update(chips.environment(_TOPOLOGY.value, dump))
    jax.config.update("jax_platforms", "cpu")  # what is compiled for is described, not opened
    wanted = report.Wanted(
        config=_CONFIG.value, topology=_TOPOLOGY.value, chip=chip,
        assumed=estimate.Assumed(flop_share=_FLOPS.value, mean_share=_MEAN.value),
        memory=_HBM.value * chips.GIB or chip.memory, only=_ONLY.value, tries=_TRIES.value,
        price=_PRICE.value, hours=_HOURS.value,
        arguments=_joined(sys.argv[1:]) if _COLLECTIVES.value else (),
    )  # fmt: skip
    if _JSON.value:
        print(json.dumps(report.make(wanted, lambda text: None)))
        return
    found = report.make(wanted, lambda text: print(text, flush=True))
    print(report.foot(found))


def _joined(arguments: list[str]) -> tuple[str, ...]:
    """Each flag with its value in one word, as --name=value."""
    words: list[str] = []
    for word in arguments:
        if word.startswith("-") or not words or "=" in words[-1]:
            words.append(word)
        else:
            words[-1] += f"={word}"
    return tuple(words)


def cli() -> None:
    """Entry point: what the user has to mend is one sentence and exit code 1, no traceback."""
    try:
        app.run(main, flags_parser=lambda argv: flags.FLAGS(experiment.in_arguments(argv)))
    except InputError as e:
        sys.exit(f"launch.plan: {e}")


if __name__ == "__main__":
    cli()
