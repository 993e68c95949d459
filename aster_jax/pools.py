"""What a run draws from: problems by stage, and the pool of interpreters.

Splits of generated problems never share a question: "demos" for the expert, "train" for
RL, "probe" for accuracy probes during SFT, "heldout" for evaluation only.
"""

from aster_jax import tools, types
from aster_jax.data import problems
from aster_jax.demos import families
from aster_jax.errors import InputError


UNCOUNTED_CALLS = 100_000  # an interpreter's own limit; the episode's budget counts calls


def tool_config(config) -> tools.ToolConfig:
    """The executor's settings of a run."""
    return tools.ToolConfig(**config.tools.to_dict(), max_calls=UNCOUNTED_CALLS)


def check(config) -> list[str]:
    """What is to be said about the problem files before they are used: rows left out.

    Raises a ValueError now for problems that a later stage could not use.
    """
    select(config, "heldout", 1)
    found = len(select(config, "train", config.problems.num_train))
    if {"rl1", "rl2"} & set(config.stages) and found < config.rl.prompts:
        raise InputError(
            f"there are {found} training problems (those of problems.heldout left out), a step "
            f"needs rl.prompts={config.rl.prompts}; add problems or lower rl.prompts"
        )
    files = [f for f in (config.problems.source, config.problems.heldout) if f != "generated"]
    repeats = {f: problems.num_repeats(f) for f in files}
    return [f"repeated questions left out of {f}: {n}" for f, n in repeats.items() if n]


def select(config, split: str, count: int) -> list[types.Problem]:
    """The first `count` problems of a split; of a file, RL trains on all there are."""
    p = config.problems
    source = p.heldout if split == "heldout" else p.source
    if source == "generated":
        return families.problems(tuple(p.families), split, count, config.seed, p.digits)
    found = problems.load(source, duplicates="drop")
    if split in ("train", "demos", "probe"):
        held = [] if p.heldout == "generated" else problems.load(p.heldout, "drop")
        found = problems.without_overlap(found, held)
    return found if split == "train" else found[:count]
