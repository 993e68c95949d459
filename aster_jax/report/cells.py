"""Does a cell go on from what earlier cells of its session made? Read off the source.

What a model works on through the tool are names that live from one call to the next; a cell
that reads none of them could have been run anywhere. Nothing is executed, and code that is
no Python says nothing. Linear in the length of the code. Pure.

A cell *reuses* state when it reads a name that an earlier cell bound: an assignment, a loop, a
function, a class, but no import, which is no work done. A name that the cell binds itself
before it reads it is its own; names inside functions and comprehensions are theirs. Branches
are read one after the other, as if all were taken.
"""

import ast
import warnings
from collections.abc import Iterable, Sequence

from aster_jax.tools import result

LONGEST = 100_000  # characters of code that are looked at
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def reuse(codes: Sequence[str], texts: Sequence[str]) -> tuple[int, int]:
    """(cells that could reuse state, those that do) of one session.

    `codes` are its calls in order and `texts` what came back: where that says that the
    interpreter was restarted, what was known is gone. The first cell, and one after which
    nothing was known, cannot reuse anything.
    """
    known: set[str] = set()
    could = does = 0
    for code, text in zip(codes, texts, strict=True):
        read, bound = names(code)
        could += bool(known)
        does += bool(known & read)
        known |= bound
        if result.LOST_NOTE in text:
            known.clear()
    return could, does


def names(code: str) -> tuple[set[str], set[str]]:
    """(names that the cell reads and has not bound itself, names that it leaves behind)."""
    tree = _parsed(code)
    read, bound, imported = set(), set(), set()
    stack = list(reversed(tree.body)) if tree is not None else []

    def look(*nodes):
        """What these expressions read, then what they bind."""
        loads, stores = _in_expressions(nodes)
        read.update(loads - bound - imported)
        bound.update(stores)

    while stack:
        node = stack.pop()
        following: list[ast.AST] = []
        if isinstance(node, _SCOPES):
            loads, stores, shared = _in_scope(node)
            read.update(loads - stores - bound - imported - {node.name})
            bound.update({node.name} | shared)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported.update((a.asname or a.name).split(".")[0] for a in node.names)
        elif isinstance(node, ast.For | ast.AsyncFor):
            look(node.iter)
            look(node.target)
            following = [*node.body, *node.orelse]
        elif isinstance(node, ast.If | ast.While):
            look(node.test)
            following = [*node.body, *node.orelse]
        elif isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                look(item.context_expr)
                look(*filter(None, [item.optional_vars]))
            following = node.body
        elif isinstance(node, ast.Try | ast.TryStar):
            following = [*node.body, *node.handlers, *node.orelse, *node.finalbody]
        elif isinstance(node, ast.ExceptHandler):
            look(*filter(None, [node.type]))
            following = node.body
        elif isinstance(node, ast.Match):
            look(node.subject)
            following = list(node.cases)
        elif isinstance(node, ast.match_case):
            look(node.pattern)
            look(*filter(None, [node.guard]))
            following = node.body
        else:
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                look(ast.Name(node.target.id, ast.Load()))
            look(node)
        stack += reversed(following)
    return read, bound - imported


def _parsed(code: str) -> ast.Module | None:
    if len(code) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange escapes, in code that is not ours
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _in_expressions(nodes: Iterable[ast.AST]) -> tuple[set[str], set[str]]:
    """Names that are read, and names that are bound beyond these nodes."""
    loads, stores, own = set(), set(), set()
    for top in nodes:
        for node in ast.walk(top):
            if isinstance(node, ast.Name):
                (stores if isinstance(node.ctx, ast.Store) else loads).add(node.id)
            elif isinstance(node, ast.comprehension):
                own |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
            elif isinstance(node, ast.arg):
                own.add(node.arg)
            elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
                stores.add(node.name)
            elif isinstance(node, ast.MatchMapping) and node.rest:
                stores.add(node.rest)
    return loads - own, stores - own


def _in_scope(top: ast.AST) -> tuple[set[str], set[str], set[str]]:
    """Of a function or class: names read, names of its own, and those it declares global.

    All that is nested in it counts as one scope.
    """
    loads, stores, shared = set(), set(), set()
    for node in ast.walk(top):
        if isinstance(node, ast.Name):
            (stores if isinstance(node.ctx, ast.Store) else loads).add(node.id)
        elif isinstance(node, ast.arg):
            stores.add(node.arg)
        elif isinstance(node, _SCOPES):
            stores.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            stores |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            stores.add(node.name)
        elif isinstance(node, ast.Global):
            shared |= set(node.names)
    return loads, stores - shared, shared
