"""Problems of reasoning-gym and their own scorers, as the processes see them that run it.

Nothing here runs in the trainer's process: problems are made by a process of their own
(`main`, asked by `demos/gym.py`), answers are judged in the verifier's. Both have the same
fixed hash seed, as some of the library's problems follow the order of a set. A problem is
told by its family, a seed and an index, and made again where an answer to it is judged; the
digest of its question says whether it is the same one.

Some scorers evaluate the answer as Python, with `eval` or through sympy's parser. An answer
is a policy's text, so while a scorer runs only plain expressions are evaluated: numbers,
strings, lists, operators and calls of a few mathematical functions.

A partial score is no right answer: only 1.0 is.

Source: reasoning-gym (arXiv 2505.24760), `pip install reasoning-gym`.
"""

import ast
import builtins
import contextlib
import functools
import hashlib
import io
import json
import random
import re
import sys
import urllib.parse
from collections.abc import Iterator

PREFIX = "rg:"
SIZE = 50  # problems of one seed: some of the library's datasets are made as a whole
NONSENSE = "nonsense, no answer at all"
RIGHT, WRONG, FAILED = "equivalent", "wrong", "failed"  # as judge.py has them
_NODES = (
    ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.BinOp, ast.UnaryOp,
    ast.BoolOp, ast.Compare, ast.Name, ast.Load, ast.Call, ast.operator, ast.unaryop, ast.boolop,
    ast.cmpop,
)  # fmt: skip
_CALLED = {  # what sympy's parser makes of an expression, and what people write in one
    "Integer", "Float", "Rational", "Symbol", "Function", "factorial",
    "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh",
    "exp", "log", "ln", "sqrt", "Abs", "abs",
}  # fmt: skip
_SYMPY = "from sympy import *"  # what its parser runs first
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|tt)?|math(?:rm|bf|it|tt)|mbox)\s*\{([^{}]*)\}")
_ESCAPED = re.compile(r"\\([{}_%&#$])")


class Unusable(Exception):
    """A family that cannot be used, and why: `kind` is "unknown", "options" or "family"."""

    def __init__(self, kind: str, text: str, near: tuple[str, ...] = ()):
        super().__init__(text)
        self.kind, self.near = kind, near


def options(family: str) -> tuple[str, dict]:
    """(name, options) of a family "rg:NAME?KEY=VALUE&KEY=VALUE"; values are JSON, or text."""
    name, _, text = family.removeprefix(PREFIX).partition("?")
    pairs = urllib.parse.parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    return name, {key: _value(value) for key, value in pairs}


def judge(scorer: str, answer: str) -> str:
    """RIGHT where the problem's own scorer gives the answer 1.0; FAILED is our doing.

    `scorer` is of `types.Problem`. LaTeX that only dresses the answer up is also tried off.
    """
    entry, dataset = _again(scorer)
    if entry is None:
        return FAILED
    try:
        if any(_score(dataset, text, entry) for text in dict.fromkeys((answer, undressed(answer)))):
            return RIGHT
    except Exception:  # whatever an answer makes a scorer do is the answer's doing
        return FAILED if judge_gold(scorer) else WRONG
    return WRONG


def judge_gold(scorer: str) -> str:
    """Why nothing can be judged by this scorer, or ""."""
    entry, dataset = _again(scorer)
    return "it is not made again as it was" if entry is None else _fault(dataset, entry)


def undressed(answer: str) -> str:
    """An answer without what LaTeX only dresses it up in: \\text{}, $, escapes."""
    text = answer.strip().removeprefix("$").removesuffix("$")
    return _ESCAPED.sub(r"\1", _WRAPPED.sub(r"\1", text)).strip()


@contextlib.contextmanager
def only_expressions() -> Iterator[None]:
    """In here `eval` and `exec` take plain expressions, and raise ValueError for others; nothing
    is printed."""
    evaluate, execute = builtins.eval, builtins.exec

    def checked_eval(source, *names):
        if not isinstance(source, str) or not is_plain(source):
            raise ValueError("not a plain expression")
        return evaluate(source, *names)

    def checked_exec(source, *names, **more):
        if isinstance(source, str) and source != _SYMPY:  # code objects are modules' own
            raise ValueError("not to be run")
        return execute(source, *names, **more)

    builtins.eval, builtins.exec = checked_eval, checked_exec
    try:
        with _quiet():
            yield
    finally:
        builtins.eval, builtins.exec = evaluate, execute


def is_plain(source: str) -> bool:
    """Whether an expression can do nothing but compute: no attributes, no names with "_", and
    no calls but of mathematical functions."""
    try:
        tree = ast.parse(source.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _NODES) or isinstance(node, ast.Name) and "_" in node.id:
            return False
        if isinstance(node, ast.Call):
            named = isinstance(node.func, ast.Name) and node.func.id in _CALLED
            if not named or node.keywords:
                return False
    return True


def make(family: str, seeds: list[tuple[int, int]]) -> list[tuple[str, str, str]]:
    """(question, answer, scorer) of each (seed, index); those nobody can judge are left out.

    Raises Unusable for an unknown family, and where none of its problems can be judged.
    """
    made, faults = [], []
    for seed, index in seeds:
        dataset = _dataset(family, seed)
        entry = _entry(family, seed, index)
        fault = _fault(dataset, entry)
        if not fault:
            digest = _digest(entry["question"])
            made.append((entry["question"], entry["answer"], f"{family} {seed} {index} {digest}"))
        faults += [fault] * bool(fault)
    if seeds and not made:
        raise Unusable("family", faults[0])
    if made:
        _dataset.cache_clear()
        if judge_gold(made[0][2]):
            raise Unusable("family", "it does not make the same problem twice")
    return made


def main() -> None:
    """Answers the one request of `demos/gym.py` on stdin, on stdout."""
    said = {}
    for family, seeds in json.loads(sys.stdin.read()).items():
        try:
            said[family] = make(family, seeds)
        except Unusable as error:
            said = {"family": family, "fault": error.kind, "why": str(error), "near": error.near}
            break
        except Exception as error:  # the library's own, while it makes a problem
            why = f"{type(error).__name__}: {error}"
            said = {"family": family, "fault": "family", "why": why, "near": ()}
            break
    sys.__stdout__.write("\n" + json.dumps(said))


@functools.lru_cache(maxsize=4)
def _dataset(family: str, seed: int):
    import reasoning_gym  # an optional extra, and a second of imports
    from reasoning_gym import factory

    name, own = options(family)
    if name not in factory.DATASETS:
        raise Unusable("unknown", f"reasoning-gym has no {name!r}", tuple(sorted(factory.DATASETS)))
    try:
        with _quiet():
            return reasoning_gym.create_dataset(name, **own, seed=seed, size=SIZE)
    except (TypeError, ValueError, AssertionError) as error:
        fields = sorted(set(factory.DATASETS[name][1].__dataclass_fields__) - {"seed", "size"})
        raise Unusable("options", f"{type(error).__name__}: {error}", tuple(fields)) from error


def _entry(family: str, seed: int, index: int) -> dict:
    dataset = _dataset(family, seed)
    random.seed(f"{family}/{seed}/{index}")  # a few draw from the global state
    with _quiet():
        return dataset[index]


def _quiet():
    """What is printed in here is lost: where it would stand, verdicts are looked for."""
    return contextlib.redirect_stdout(io.StringIO())


def _again(scorer: str):
    """(entry, dataset) of a problem, (None, None) where another one is made than was asked."""
    family, seed, index, digest = scorer.split(" ")
    entry = _entry(family, int(seed), int(index))
    if _digest(entry["question"]) != digest:
        return None, None
    return entry, _dataset(family, int(seed))


def _score(dataset, answer: str, entry: dict) -> bool:
    with only_expressions():
        return dataset.score_answer(answer, entry) == 1.0


def _fault(dataset, entry) -> str:
    """Why an answer to this problem cannot be judged, or ""."""
    if not isinstance(entry["answer"], str) or not entry["answer"].strip():
        return "it gives no answer of its own, so nothing tells whether its scorer works"
    try:
        if not _score(dataset, entry["answer"], entry):
            return "its scorer does not take its own answer for right"
    except Exception as error:
        return f"its scorer fails on its own answer: {type(error).__name__}: {error}"
    with contextlib.suppress(Exception):
        if _score(dataset, NONSENSE, entry):
            return "its scorer takes nonsense for right"
    return ""


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def _value(text: str):
    try:
        return json.loads(text)
    except ValueError:
        return text
