"""`python -m docs.configuration > docs/configuration.md`: every key, read off aster_jax/config.py.

Keys, defaults and comments stand in config.py and nowhere else; this page is made of them, and
`tests/documents_test.py` holds that it is the present one. What a stage records of its keys is
asked of `lifetime/changes.py`.
"""

import ast
import dataclasses
import inspect

from aster_jax import config as configs
from aster_jax.lifetime import changes

HEAD = """\
# Configuration

Every key, once, with its default: made from `aster_jax/config.py` by
`python -m docs.configuration > docs/configuration.md`, so change it there. An experiment is a file
that starts from these and assigns ([experiments/](../experiments/README.md)); the command line
changes one value more, `--config.SECTION.KEY=VALUE`. A key that is not here is refused, with the
one that was probably meant.

A workdir remembers what its stages were made with. *Recorded by* names the stages that a key
determines: once one of them has begun, the key may not change in that workdir any more (a stage's
number of steps may still grow, as long as nothing goes on from its end). Where nothing is named, it
may change at any time. Where `sft.probe_every` is on, SFT records what its probes depend on too: budgets of
`rl1`, sampling, the tool's limits, and the problems until it is made. Of a file of problems `rl1` and `rl2` record
whether any `eval_every` or `probe_every` sets validation problems apart: measuring may end later, but not begin."""
TITLES = {"": "Of the whole run", "rl": "rl: both RL stages", "rl1": "rl1 and rl2: one RL stage"}
NOTES = {
    "rl1": "`rl1` and `rl2` take every key of `rl` too: unset there, it is taken from `rl`.",
}
DONE_WITH = ("rl2",)  # sections that another one's page speaks for


@dataclasses.dataclass(frozen=True)
class Key:
    """One key as config.py has it: what stands above it, its default as written, its comment."""

    name: str
    above: str
    default: str
    comment: str


def sections() -> dict[str, list[Key]]:
    """The keys of every section, "" for those of none, in the order of config.py."""
    source = inspect.getsource(configs)
    tree = ast.parse(source)
    made = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef)}
    found: dict[str, list[Key]] = {"": []}
    _read(made["default"], made, source.splitlines(), "", found)
    return found


def _read(function, made, lines, section, found):
    """Add what a function of config.py assigns; the sections that it calls, behind it."""
    for node in function.body:
        if not isinstance(node, ast.Assign):
            continue
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Name):
            shared = value.func.id if isinstance(value, ast.Call) else ""
            if shared in made:  # keys that several sections begin with
                _read(made[shared], made, lines, section, found)
            continue
        name = f"{section}.{target.attr}" if section else target.attr
        comment = lines[node.end_lineno - 1].partition("  # ")[2]
        if isinstance(value, ast.Call) and ast.unparse(value.func) in made:
            found[name] = []
            _read(made[ast.unparse(value.func)], made, lines, name, found)
        elif isinstance(value, ast.Call):  # a section of a line
            pairs = zip(value.args[0].keys, value.args[0].values, strict=True)
            found[name] = [Key(k.value, "", ast.unparse(v), comment) for k, v in pairs]
        else:
            _put(found[section], Key(target.attr, _above(lines, node.lineno), _default(value), comment))


def _put(keys, key):
    """Add a key, in place of an earlier one of its name, whose default it changes."""
    keys[:] = [k for k in keys if k.name != key.name]
    keys.append(key)


def _above(lines, number) -> str:
    """The comment that stands in lines of its own above a line."""
    said = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("# "):
            break
        said.insert(0, line.strip()[2:])
    return " ".join(said)


def _default(value) -> str:
    if isinstance(value, ast.Name):
        return repr(getattr(configs, value.id))
    return ast.unparse(value)


def recorded_by(c) -> dict[str, str]:
    """The stages that every key determines, in words; no entry where there is none."""
    found: dict[str, list[str]] = {}
    for stage in configs.STAGES:
        for key in changes.determining(c, stage):
            section, _, name = key.rpartition(".")
            keys = [key, f"rl.{name}"] if section in ("rl1", "rl2") else [key]
            for each in keys:
                found.setdefault(each, []).append(stage)
    return {
        key: ", ".join(dict.fromkeys(stages)) + (" (may grow)" if key in changes.GROWING else "")
        for key, stages in found.items()
    }


def page() -> str:
    """The whole page."""
    c = configs.default()
    c.problems.source = "a file"  # of generated problems fewer keys count
    stages = recorded_by(c)
    parts = [HEAD]
    for section, keys in sections().items():
        if section not in DONE_WITH:
            parts.append(_section(section, keys, stages))
    return "\n\n".join(parts) + "\n"


def _section(section, keys, stages) -> str:
    lines = [f"## {TITLES.get(section, section)}", ""]
    if section in NOTES:
        lines += [NOTES[section], ""]
    lines += ["| key | default | meaning | recorded by |", "|---|---|---|---|"]
    for key in keys:
        if key.above:
            lines.append(f"| | | *{_cell(key.above)}* | |")
        name = f"{section}.{key.name}" if section else key.name
        recorded = stages.get(name, "")
        lines.append(f"| `{name}` | `{key.default}` | {_cell(key.comment)} | {recorded} |")
    return "\n".join(lines)


def _cell(text) -> str:
    """A comment as a cell: names of stages in capitals and signs of Markdown stay what they are."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    print(page(), end="")
