"""Questions that are copies of held-out ones: letter for letter, up to spelling, by n-grams.

Each kind finds what the one before it finds. "normalised" (`data/problems.py`) drops all
but letters and digits, and finds a question inside another. "ngram" also finds rewritten
ones: at least half of the shorter question's runs of so many words stand in the other. Words
that several held-out questions share ("where m and n are relatively prime positive
integers") say nothing and are not counted. A paraphrase in other words is not found.
"""

import collections
import re
from collections.abc import Sequence

from aster_jax import types
from aster_jax.data import problems

KINDS = ("none", "exact", "normalised", "ngram")
SHARED = 0.5  # of the n-grams of the shorter question, from which on it is a copy


def find(
    asked: Sequence[types.Problem], held: Sequence[types.Problem], kind: str, words: int
) -> dict[str, str]:
    """Each question of `asked` that is a copy, and "KIND ID" of the held-out one it copies."""
    if kind == "none" or not held:
        return {}
    ids = {p.question.strip(): p.id for p in reversed(held)}
    once = list({p.question: p for p in asked}.values())
    found = {p.question: f"exact {ids[p.question.strip()]}" for p in once
             if p.question.strip() in ids}  # fmt: skip
    if kind == "exact":
        return found
    for mine, other in problems.overlaps(once, held):
        found.setdefault(mine.question, f"normalised {other.id}")
    if kind == "ngram":
        for question, other in _by_ngrams(once, held, words):
            found.setdefault(question, f"ngram {other}")
    return found


def _by_ngrams(asked, held, words):
    """(question, id of the held-out one) of those that share enough n-grams."""
    # By place, as problems of two files may have one id.
    distinct = list({problems.overlap_key(p.question): p for p in held}.values())
    sets = [ngrams(p.question, words) for p in distinct]
    owners = collections.defaultdict(set)
    for i, grams in enumerate(sets):
        for gram in grams:
            owners[gram].add(i)
    own = [{g for g in grams if len(owners[g]) == 1} for grams in sets]
    for problem in asked:
        mine = ngrams(problem.question, words)
        shared = collections.Counter(
            next(iter(owners[g])) for g in mine if g in owners and len(owners[g]) == 1
        )
        for i, n in shared.most_common(1):
            if n >= SHARED * min(len(mine), len(own[i])):
                yield problem.question, distinct[i].id


def ngrams(question: str, words: int) -> set[tuple[str, ...]]:
    """Runs of `words` words (letters or digits, without case) of a question without the
    instruction around it; of a shorter one, all its words."""
    found = re.findall(r"[^\W_]+", problems.without_instruction(question).casefold())
    if len(found) <= words:
        return {tuple(found)} if found else set()
    return {tuple(found[i : i + words]) for i in range(len(found) - words + 1)}
