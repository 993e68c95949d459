"""Which keys may change when a run goes on, and which would change what it has made.

A stage records, when it begins, the keys and the files that determine its own output
(`STAGE/began.json`). Going on under another value of one of those would mix two
experiments, and is refused by name. Everything else may change at any time: keys of stages
that have not begun, and keys that say how the work is done and not what comes out
(`OPERATIONAL`; a result may then differ by the rounding of its sums).
"""

import dataclasses
import fnmatch
import json
import pathlib

from ml_collections import ConfigDict

from aster_jax import config as configs
from aster_jax.data import digest
from aster_jax.demos import families
from aster_jax.errors import InputError
from aster_jax.report import records

TRAINING = ("sft", "rl1", "rl2")  # each starts from what the one before it ended with

_MODEL = ("seed", "model.*")
_TOOL = ("tools.wall_limit_s", "tools.memory_limit_mib", "tools.last_value")
_SAMPLING = (
    "rollout.temperature", "rollout.top_p", "rollout.top_k", "rollout.dtype",
    "rollout.tool_result_tokens", "rollout.max_malformed",
)  # fmt: skip
_ASKED = (
    "problems.source", "problems.families", "problems.digits", "problems.num_validation",
    "problems.suffix",
)  # fmt: skip
_PROBLEMS = (*_ASKED, "problems.num_train")
DETERMINES = {
    "demos": (
        "seed", "model.source", "model.style", "model.show_tool", "model.vocab_size", "demos.*",
        "problems.source", "problems.families", "problems.digits", *_TOOL,
        "rollout.tool_result_tokens", "sft.row_tokens",
    ),
    "sft": (*_MODEL, "sft.*"),
    "rl1": (*_MODEL, *_PROBLEMS, *_TOOL, *_SAMPLING, "rl1.*"),
    "filter": ("filter.*",),
    "rl2": (*_MODEL, *_PROBLEMS, *_TOOL, *_SAMPLING, "rl2.*", "rl1.hand_on"),
}  # fmt: skip
OPERATIONAL = (
    "model.remat", "*.micro_rows", "*.save_every", "*.keep", "*.keep_every", "*.keep_best",
    "*.max_unusable", "*.min_group", "*.min_step", "*.eval_every", "*.eval_problems",
    "*.eval_samples", "rl1.row_tokens", "rl2.row_tokens", "*.share_prefixes",
    *(f"demos.teacher.{key}" for key in (
        "url", "key_env", "at_once", "timeout_s", "retries", "pause_s", "cap_*", "price_*", "journal",
    )),
)  # fmt: skip
GROWING = ("sft.steps", "sft.epochs", "rl1.steps", "rl2.steps")
SETS_APART = "problems.sets_apart"  # no key of the config: whether it has a validation split


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """What training leaves out of a file of problems: the questions of the held-out `files`, and
    the validation split where `validation` says that there is one."""

    files: tuple[str, ...] = ()
    validation: bool = False


def determining(c: ConfigDict, stage: str) -> dict:
    """The keys that determine the stage's output, by dotted name, as JSON values."""
    flat = {key: _leaf(c, key) for key in configs.keys(c)}
    for name in ("rl1", "rl2"):
        flat |= {f"{name}.{key}": value for key, value in configs.rl_stage(c, name).items()}
    patterns = list(DETERMINES[stage]) if stage in DETERMINES else []
    if stage == "sft" and c.sft.probe_every:  # its probes decide when it stops
        patterns += [*_SAMPLING, *_TOOL, *_ASKED]
        patterns += [f"rl1.{budget}" for budget in (*configs.BUDGETS, "max_calls")]
    found = {
        key: value for key, value in flat.items()
        if _matches(key, patterns) and not _matches(key, OPERATIONAL)
    }  # fmt: skip
    found.pop(f"{stage}.hand_on", None)  # determines the next stage, not this one
    if c.problems.source == "generated":
        found.pop("problems.num_validation", None)
        if "problems.families" in found and (version := families.version(c.problems.families)):
            found["problems.reasoning_gym"] = version
    elif stage in ("rl1", "rl2"):
        found[SETS_APART] = bool(measuring(c))
    return json.loads(json.dumps(found))


def files(c: ConfigDict, stage: str) -> dict[str, str]:
    """The files that the stage reads, by name, with the digests of what they hold."""
    read = []
    if stage == "demos" and c.demos.source != "expert":
        read.append(c.demos.source)
    if c.problems.source != "generated" and (stage == "demos" or _draws(c, stage)):
        read.append(c.problems.source)
    if stage in ("demos", *TRAINING) and c.model.source != "scratch":
        read.append(c.model.source)
    return {name: digest.of(name) for name in read if pathlib.Path(name).exists()}


def _draws(c, stage) -> bool:
    """Whether the stage plays training or validation problems."""
    return stage in ("rl1", "rl2") or (stage == "sft" and c.sft.probe_every > 0)


def heldout_files(c: ConfigDict) -> list[str]:
    """Every file of held-out problems that the config names; none of them may be trained on."""
    named = [c.problems.heldout, *(e.get("heldout") for e in c.eval.also)]
    return [name for name in dict.fromkeys(named) if name and name != "generated"]


def measuring(c: ConfigDict) -> list[str]:
    """What the config measures on validation problems while it trains, as KEY=VALUE."""
    asked = {"sft.probe_every": c.sft.probe_every}
    asked |= {f"{s}.eval_every": c[s].eval_every for s in configs.RL_SECTIONS}
    return [f"{key}={value}" for key, value in asked.items() if value]


def left_out(c: ConfigDict, began: dict | None = None) -> LeftOut:
    """What training leaves out by the config, or by the record of a stage that has `began`.

    A file of the record is taken under the name that it has in the config now, if it has moved.
    """
    if began is None:
        return LeftOut(tuple(heldout_files(c)), bool(measuring(c)))
    known, apart = began["heldout"], began["keys"].get(SETS_APART, bool(measuring(c)))
    if isinstance(known, dict):  # a version before this one recorded names alone
        now = {held: name for name, held in _held(heldout_files(c)).items() if held}
        known = [now.get(held, name) for name, held in known.items()]
    return LeftOut(tuple(known), apart)


def record(c: ConfigDict, stage: str) -> dict:
    """What is written when a stage begins."""
    return {
        "keys": determining(c, stage),
        "files": files(c, stage),
        "heldout": _held(heldout_files(c)),
    }


def is_record(began: dict, c: ConfigDict, stage: str) -> bool:
    """Whether a stage of this config would begin from just what stands in a record."""
    own = record(c, stage)
    if isinstance(began["heldout"], list):
        own["heldout"] = list(own["heldout"])
    return began == own


def _held(names) -> dict[str, str]:
    """The digests of files by their names; "" for one that is not there."""
    return {name: digest.of(name) if pathlib.Path(name).exists() else "" for name in names}


def check(c: ConfigDict, path: pathlib.Path) -> None:
    """Raise an InputError when the config would change what the run at `path` has made.

    A file or directory is what it holds: under another path with the same contents, as after a
    move, it is the same one.
    """
    wrong = [text for stage in configs.STAGES for text in _wrong(c, path, stage)]
    if wrong:
        shown = "; ".join(dict.fromkeys(wrong[:5]))
        raise InputError(
            f"workdir {path} was made with another config, and this would change what is there: "
            f"{shown}; give a new one with --workdir, or take the change back. Keys of stages "
            "that have not begun and keys such as micro_rows, slots or save_every may change"
        )


def _wrong(c, path, stage) -> list[str]:
    """What the config would change of a stage, each with why it may not."""
    if not (path / stage / "began.json").exists():
        return []
    known, where = records.whole(path / stage / "began.json"), _where(path, stage)
    now, read = determining(c, stage), files(c, stage)
    leaves_out = c.problems.source != "generated" and _draws(c, stage)
    if stage in ("demos", "sft") and _is_made(c, path, stage, known):
        # What RL then draws from need not be what they were drawn from, or probed on.
        now = {key: value for key, value in now.items() if not key.startswith("problems.")}
        read.pop(c.problems.source, None)
        leaves_out = False
    wrong = []
    for key in sorted(set(known["keys"]) & set(now)):
        old, new = known["keys"][key], now[key]
        if old == new or _hold_the_same(old, known["files"], new, read):
            continue
        if key == SETS_APART:
            if new:  # else it goes on without the problems that were set apart when it began
                wrong.append(f"{', '.join(measuring(c))}: nothing was set apart to measure on ({where})")
        elif key not in GROWING:
            wrong.append(f"{key}: {old} -> {new} ({where})")
        elif why := _cannot_grow(path, stage, key, new):
            wrong.append(f"{key}: {old} -> {new} ({why})")
    for name in sorted(set(known["files"]) & set(read)):
        if known["files"][name] != read[name]:
            wrong.append(f"the contents of {name} ({where})")
    for name in _edited(c, known["heldout"]) if leaves_out else ():
        wrong.append(f"the contents of {name}, left out of training ({where}: what is new needs a new name)")
    return wrong


def _is_made(c, path, stage, known) -> bool:
    return (path / stage / "DONE.json").exists() and not asks_for_more(c, known)


def _edited(c, known) -> list[str]:
    """The held-out files of a record that stand there with other contents than they had."""
    if isinstance(known, list):  # of a version that recorded names alone
        return []
    now, here = set(_held(heldout_files(c)).values()), _held(known)
    return [n for n, held in known.items() if held and held not in now and here[n] not in ("", held)]


def _hold_the_same(old, known: dict[str, str], new, held: dict[str, str]) -> bool:
    """Whether two values are names of files, each with its digests, and the same stands there."""
    are_names = isinstance(old, str) and isinstance(new, str)
    return are_names and old in known and new in held and known[old] == held[new]


def growing(c: ConfigDict, stage: str) -> dict:
    """The keys that say how long the stage is, which may change while nothing goes on from it."""
    return {k: v for k, v in determining(c, stage).items() if k in GROWING}


def asks_for_more(c: ConfigDict, began: dict) -> bool:
    """Whether the config asks another length of a stage than it was recorded with."""
    flat = {key: _leaf(c, key) for key in GROWING}
    known = began["keys"]
    return any(known[key] != value for key, value in flat.items() if key in known)


def differences(old: dict, new: dict, prefix: str = "") -> dict[str, list]:
    """{key: [old, new]} for every leaf that differs between two configs as JSON."""
    found = {}
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[prefix + key] = [a, b]
    return found


def _leaf(c, key):
    for part in key.split("."):
        c = c[part]
    return c


def _matches(key, patterns) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _where(path, stage) -> str:
    state = "has finished" if (path / stage / "DONE.json").exists() else "is under way"
    return f"{stage} {state}"


def _cannot_grow(path, stage, key, new) -> str:
    """Why the number of a stage's steps cannot be changed to `new`; "" when it can."""
    later = TRAINING[TRAINING.index(stage) + 1 :]
    begun = [s for s in later if (path / s / "began.json").exists()]
    if begun:
        return f"{begun[0]} has begun from what {stage} ended with"
    made = steps_made(path, stage)
    if key.endswith(".steps") and new < made:
        return f"{made} steps are made"
    return ""


def steps_made(path: pathlib.Path, stage: str) -> int:
    """The newest checkpoint's step of a stage, 0 without one."""
    found = (path / stage / "checkpoints").glob("*")
    return max((int(p.name) for p in found if p.name.isdigit()), default=0)
