"""Which runs a study is made of: every variant with every seed, each with a config of its own.

Where in the flow: `main` reads a config whose section `study` names variants, and instead of
one run makes one per member, under WORKDIR/VARIANT/seed_N. A variant is a dict with a `name`
and what differs from the file's config, by dotted key. The variants that `study.base` names are
made once, with the first seed, each from the weights of the one before; all others start from
the weights that the last of them ends with. Pure.
"""

import dataclasses
import re

from ml_collections import ConfigDict

from aster_jax import config as configs
from aster_jax import config_check, naming
from aster_jax.errors import InputError
from aster_jax.lifetime import changes

_NAME = re.compile(r"\w[\w.-]{0,99}")
# What else stands in a study's directory: its page, its lock, compiled programs, members' logs.
_TAKEN = re.compile(r"study\..*|LOCK|compiled|.*\.txt", re.DOTALL)
EXPORT = "weights"  # where a base leaves its weights, beneath its own directory


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a study: what differs from the study's config, and its seed."""

    variant: str
    seed: int
    changes: tuple[tuple[str, object], ...]

    @property
    def path(self) -> str:
        """Its workdir, relative to the study's."""
        return f"{self.variant}/seed_{self.seed}"


def is_study(c: ConfigDict) -> bool:
    """Whether the config asks for a study and not for one run."""
    return bool(c.study.variants)


def bases(c: ConfigDict) -> list[Member]:
    """The runs that lead to the weights all members start from, in order; [] for none.

    Raises InputError for bases that are no variants, named twice, or all there are.
    """
    named, base = dict(_variants(c)), tuple(c.study.base)
    unknown = [name for name in base if not isinstance(name, str) or name not in named]
    if unknown:
        raise InputError(f"study.base has {unknown}, no variants; there are {', '.join(named)}")
    if len(set(base)) != len(base):
        raise InputError(f"study.base={base} must hold each variant once; each is made once")
    if len(base) == len(named):
        raise InputError(
            f"study.base={base} leaves no variant to compare; add one that starts from them"
        )
    return [Member(name, c.study.seeds[0], named[name]) for name in base]


def members(c: ConfigDict) -> list[Member]:
    """All runs that are compared, seed by seed: whoever stops early has whole comparisons.

    Raises InputError for a study without a name or seeds, and for variants that cannot be told
    apart.
    """
    config_check.check_given(c)
    if not c.name:
        raise InputError("name is empty; the experiment file must set c.name")
    if type(c.study.at_once) is not int or c.study.at_once < 1:
        raise InputError(f"study.at_once={c.study.at_once!r} must be at least 1")
    wrong = [s for s in c.study.seeds if not config_check.is_seed(s)]
    if wrong:
        raise InputError(
            f"study.seeds has {wrong}; seeds are whole numbers from 0 to {config_check.MOST_SEED}"
        )
    if not c.study.seeds or len(set(c.study.seeds)) != len(c.study.seeds):
        raise InputError(f"study.seeds={c.study.seeds} must hold each seed once, and at least one")
    made = {base.variant for base in bases(c)}
    return [
        Member(name, seed, changed)
        for seed in c.study.seeds
        for name, changed in _variants(c)
        if name not in made
    ]


def config_of(c: ConfigDict, member: Member, weights: str = "") -> ConfigDict:
    """The config of one member: the study's, without its section `study`, with the changes.

    `weights`: the directory that it starts from; "" leaves `model.source`. Raises InputError
    for changes that no config takes, and for values that cannot work together.
    """
    made = c.copy_and_resolve_references()
    made.unlock()
    made.study = configs.default().study
    made.name = f"{c.name}-{member.variant}"
    made.seed = member.seed
    if weights:
        made.model.source = weights
    for key, value in member.changes:
        _set(made, key, value, member.variant)
    made.lock()
    try:
        config_check.validate(made)
    except InputError as e:
        raise InputError(f"variant {member.variant!r}: {e}") from e
    if not made.stages:
        raise InputError(f"variant {member.variant!r} has stages=(), so there is nothing to compare")
    if member.variant in c.study.base and not set(changes.TRAINING) & set(made.stages):
        raise InputError(
            f"variant {member.variant!r} is a base with stages={made.stages}, and trains nothing "
            f"to start from; give it one of {', '.join(changes.TRAINING)}"
        )
    return made


def _variants(c) -> list[tuple[str, tuple]]:
    """(name, changes) of every variant, in the config's order."""
    found: dict[str, tuple] = {}
    for i, variant in enumerate(c.study.variants):
        if not isinstance(variant, dict | ConfigDict) or "name" not in variant:
            raise InputError(f"study.variants[{i}]={variant!r} must be a dict with a 'name'")
        changed = dict(variant.items())
        name = changed.pop("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in found:
            raise InputError(
                f"study.variants[{i}] has name {name!r:.200}; names are letters, digits, ., - and "
                "_, 100 at most, each once"
            )
        if _TAKEN.fullmatch(name):
            raise InputError(
                f"study.variants[{i}] has name {name!r}, which the study needs for a file of its "
                "own; give another one"
            )
        if "seed" in changed:
            raise InputError(f"variant {name!r} sets 'seed'; seeds are study.seeds")
        found[name] = tuple(changed.items())
    return list(found.items())


def _set(c, key, value, variant):
    """Assign one dotted key."""
    if not isinstance(key, str):
        raise InputError(f"variant {variant!r} changes {key!r}; keys are names, such as 'rl1.steps'")
    if key.partition(".")[0] == "study":
        raise InputError(
            f"variant {variant!r} changes {key!r}, which is of all variants; set it in the file"
        )
    if key not in configs.keys(c):
        hint = naming.nearest(key, configs.keys(c))
        raise InputError(
            f"variant {variant!r} changes {key!r}, which is no key"
            + (f"; did you mean {hint}?" if hint else "; see aster_jax/config.py")
        )
    *sections, last = key.split(".")
    for section in sections:
        c = c[section]
    try:
        c[last] = tuple(value) if isinstance(value, list) else value
    except TypeError as e:
        raise InputError(f"variant {variant!r}: {key}={value!r}: {e}") from e
