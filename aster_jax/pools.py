"""Which problems each stage of a run draws.

Splits never share a question: "demos" for the expert, "train" for RL, "validation" for
what is measured while training, "heldout" for evaluation only. Of generated problems a hash
of the question decides; of a file of training problems the validation split is set apart
by a hash of the id, and questions of any held-out file are left out.
"""

import hashlib
from collections.abc import Collection

from aster_jax import config as configs
from aster_jax import settings, types
from aster_jax.data import problems
from aster_jax.demos import families, teacher
from aster_jax.errors import InputError
from aster_jax.lifetime import changes

GENERATED = {"validation": "probe"}  # what a split is called among the generated ones


def check(config, stages: Collection[str]) -> list[str]:
    """What is to be said about the problem files before they are used: rows left out.

    Raises an InputError now for problems that one of the `stages`, those to come, could not use.
    """
    left = changes.left_out(config)
    said = []
    evaluated = (e.heldout or config.problems.heldout for e in settings.evaluations(config).values())
    for name in dict.fromkeys(evaluated):
        found = heldout(config, name)
        total = len(found) if name == "generated" else len(problems.load(name, "drop"))
        if len(found) < total:
            said.append(
                f"{len(found)} of {total} problems of {name} are evaluated; "
                "problems.num_heldout=0 takes all"
            )
    if {"rl1", "rl2"} & set(stages):
        found, least = len(train(config, left)), max(config.rl.minibatches, 1)
        if found < least:
            raise InputError(
                f"there are {found} training problems (those of held-out files and the validation "
                f"split left out), a step needs one for each of rl.minibatches={least}; add "
                "problems, or lower rl.minibatches or problems.num_validation"
            )
        if found < config.rl.prompts:
            said.append(f"{found} training problems: fewer than rl.prompts={config.rl.prompts}")
    if _measures(config, stages):
        validation(config, left, 1)
    files = [f for f in (config.problems.source, *left.files) if f != "generated"]
    repeats = {f: problems.num_repeats(f) for f in files}
    return said + [f"repeated questions left out of {f}: {n}" for f, n in repeats.items() if n]


def _measures(config, stages) -> bool:
    """Whether one of these stages is measured on validation problems."""
    rl = (configs.rl_stage(config, stage) for stage in ("rl1", "rl2") if stage in stages)
    return any(c.eval_every for c in rl) or ("sft" in stages and config.sft.probe_every > 0)


def train(config, left: changes.LeftOut) -> list[types.Problem]:
    """The training problems: of a file, all but those that are `left` out."""
    p = config.problems
    if p.source == "generated":
        return _generated(config, "train", p.num_train)
    found = _own(config, left.files)
    apart = {problem.id for problem in _apart(config, found)} if left.validation else set()
    return [problem for problem in found if problem.id not in apart]


def validation(config, left: changes.LeftOut, count: int) -> list[types.Problem]:
    """Up to `count` problems to measure on while training, never trained on."""
    if config.problems.source == "generated":
        return _generated(config, GENERATED["validation"], count)
    found = _apart(config, _own(config, left.files))[:count]
    if not found:
        raise InputError(
            "there are no validation problems; raise problems.num_validation, or measure "
            "nothing while training (sft.probe_every=0, rl.eval_every=0)"
        )
    return found


def demos(config, count: int) -> list[types.Problem]:
    """Problems for the scripted expert. Raises InputError for those of a file, or of families
    that it has no script for."""
    if config.problems.source != "generated":
        raise InputError(
            f"demos.source='expert' solves generated problems, not those of problems.source="
            f"{config.problems.source!r}; give another demos.source (a file, run:WORKDIR, endpoint), or make "
            "them first with problems.source=generated and change it when they are there"
        )
    teacher.check(config.demos.style, config.problems.families)
    return _generated(config, "demos", count)


def taught(config, left: changes.LeftOut, count: int) -> list[types.Problem]:
    """Up to `count` problems for a teacher that solves any: those of the demos split, or of the
    file that RL trains on."""
    if config.problems.source == "generated":
        return _generated(config, "demos", count)
    return train(config, left)[:count]


def heldout(config, source: str = "") -> list[types.Problem]:
    """The problems of an evaluation; `source` is "" for the run's own, else its file."""
    p = config.problems
    source = source or p.heldout
    if source == "generated":
        if not p.num_heldout:
            raise InputError("problems.num_heldout=0 takes all of a file; generated ones never end")
        return _generated(config, "heldout", p.num_heldout)
    found = problems.load(source, duplicates="drop")
    return found[: p.num_heldout] if p.num_heldout else found


def trained_on(config, held_out: list[types.Problem], left: changes.LeftOut) -> int:
    """How many of these held-out problems stand among the training problems of a stage, with
    what it `left` out when it began."""
    if config.problems.source == "generated":
        return 0
    return len({other.id for _, other in problems.overlaps(train(config, left), held_out)})


def _generated(config, split, count):
    p = config.problems
    return families.problems(tuple(p.families), split, count, config.seed, p.digits)


def _own(config, files) -> list[types.Problem]:
    """Of the file of training problems, those that stand in no held-out file."""
    found = problems.load(config.problems.source, duplicates="drop")
    others = [p for name in files for p in problems.load(name, "drop")]
    return problems.without_overlap(found, others)


def _apart(config, found) -> list[types.Problem]:
    """The validation split: the problems whose ids have the smallest hashes."""

    def rank(problem):
        return hashlib.sha256(f"validation/{problem.id}".encode()).hexdigest()

    return sorted(found, key=rank)[: config.problems.num_validation]
