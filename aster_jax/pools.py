"""Which problems each stage gets: generated ones by split, or the files that config names.

Splits of generated problems never share a question: "demos" for the expert, "train" for
RL, "probe" for accuracy probes during SFT, "heldout" for evaluation only.
"""

from aster_jax import types
from aster_jax.data import problems
from aster_jax.demos import families


def select(config, split: str, count: int) -> list[types.Problem]:
    """The first `count` problems of a split; all of them where a file holds fewer."""
    p = config.problems
    source = p.heldout if split == "heldout" else p.source
    if source == "generated":
        return families.problems(tuple(p.families), split, count, config.seed, p.digits)
    found = problems.load(source)
    if split in ("train", "demos", "probe"):
        held = [] if p.heldout == "generated" else problems.load(p.heldout)
        found = problems.without_overlap(found, held)
    return found[:count] if split == "heldout" else found
