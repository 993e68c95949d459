"""Generated problems whose answers need computation: the recipe without any download.

Each family is a question with holes for numbers, a way to draw the numbers and a plain
Python solution. Questions say the numbers outright, so whoever solves them with the tool
only has to copy numbers and follow a procedure; answers are spread over hundreds of
values, so guessing does not pay. `digits` sets the size of the numbers.

Splits are disjoint by construction: a hash of the question decides which split it
belongs to, whatever seed or count it was drawn with.

Beside these, `gym.py` brings the kinds of reasoning-gym, as "rg:NAME": they have no solution
here, and `digits` says nothing about them.
"""

import dataclasses
import difflib
import functools
import hashlib
import math
import random
import re
from collections.abc import Callable, Iterable

from aster_jax import types
from aster_jax.demos import gym, walks
from aster_jax.errors import InputError

# Share of the space of questions that each split owns, in sixteenths.
SPLITS = {"demos": 4, "train": 6, "probe": 2, "heldout": 4}
MIN_DIGITS, MAX_DIGITS = 2, 4  # below, answers can be guessed; above, lists become long
TRIES_PER_PROBLEM = 1000  # draws before a split counts as exhausted


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of problem.

    `template` is the question with `{name}` for each number. `draw` gives the numbers in
    order of the template's holes, `solve` the answer from them.
    """

    template: str
    draw: Callable[[random.Random, int], tuple[int, ...]]
    solve: Callable[..., int]


def generate(family: str, seed: int, digits: int) -> types.Problem:
    """The problem number `seed` of a family: the same for the same arguments, always.

    Args:
      family: one of `FAMILIES`.
      seed: any integer.
      digits: of the numbers in the question, `MIN_DIGITS` to `MAX_DIGITS`.

    Raises ValueError for an unknown family or a size out of range.
    """
    kind = _family(family)
    if not MIN_DIGITS <= digits <= MAX_DIGITS:
        raise InputError(
            f"problems.digits={digits} is outside {MIN_DIGITS} to {MAX_DIGITS}; pick one inside"
        )
    rng = random.Random(f"{family}/{digits}/{seed}")
    values = kind.draw(rng, digits)
    question = kind.template.format(**dict(zip(_holes(family), values)))
    digest = hashlib.sha256(question.encode()).hexdigest()
    return types.Problem(
        id=f"{family}-{digest[:12]}",
        question=question,
        answer=str(kind.solve(*values)),
        family=family,
    )


def problems(
    families: tuple[str, ...], split: str, count: int, seed: int, digits: int
) -> list[types.Problem]:
    """`count` different problems of a split, families taking turns.

    The first n of a longer list are the list of n. No question of one split is ever in
    another, for any seed and count.

    Raises ValueError for unknown names, or when the split has too few questions of this
    size (of ours tens of thousands at the smallest).
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    if not families or len(set(families)) != len(families):
        raise InputError(f"families={families!r} must name each family once, and at least one")
    likely = 16 * count // (SPLITS[split] * len(families)) + gym.FIRST
    gym.prepare([family for family in families[:count] if gym.is_own(family)], seed, likely)
    found, seen = [], set()
    drawn = dict.fromkeys(families, 0)
    for i in range(count):
        family = families[i % len(families)]
        for _ in range(TRIES_PER_PROBLEM):
            problem = _drawn(family, seed, drawn[family], digits)
            drawn[family] += 1
            if problem.id not in seen and split_of(problem.question) == split:
                break
        else:
            raise InputError(
                f"family {family!r} has no more than {i // len(families)} questions with "
                f"digits={digits} in split {split!r}; raise problems.digits or ask for fewer"
                if not gym.is_own(family) else
                f"family {family!r} has no more than {i // len(families)} different questions in "
                f"split {split!r}; give it options with more, or ask for fewer"
            )
        seen.add(problem.id)
        found.append(problem)
    return found


def split_of(question: str) -> str:
    """The one split that a question belongs to."""
    sixteenth = hashlib.sha256(b"split/" + question.encode()).digest()[0] % 16
    for split, share in SPLITS.items():
        if sixteenth < share:
            return split
        sixteenth -= share
    raise AssertionError("the shares of SPLITS must sum to 16")


def numbers(problem: types.Problem) -> tuple[int, ...]:
    """The numbers in a generated question, as a reader finds them: by matching its words.

    Raises ValueError when the question is not one of its family's.
    """
    match = _pattern(problem.family).fullmatch(problem.question)
    if match is None:
        raise InputError(
            f"problem {problem.id} does not read like family {problem.family!r}: "
            f"{problem.question!r}"
        )
    return tuple(int(match[name]) for name in _holes(problem.family))


def version(families: Iterable[str]) -> str:
    """The version of the library that some of these come from, or "": another one makes other
    problems."""
    return gym.version() if any(map(gym.is_own, families)) else ""


def _drawn(family: str, seed: int, number: int, digits: int) -> types.Problem:
    """A family's problem `number` from 0, of whatever split."""
    if gym.is_own(family):
        return gym.drawn(family, seed).problem(number)
    return generate(family, seed * 1_000_003 + number, digits)


def check_solved(families: Iterable[str]) -> None:
    """Raise InputError for families whose solution is not written down here, or unknown ones."""
    for family in families:
        _family(family)


def _family(name: str) -> Family:
    if gym.is_own(name):
        raise InputError(
            f"family {name!r} has no solution written down; let a teacher solve it (demos.source="
            "endpoint or run:WORKDIR), or give the expert a demos.style that needs none (direct)"
        )
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? There are" if near else "choose from"
        more = f", or {gym.PREFIX}NAME for one of reasoning-gym"
        raise InputError(f"family {name!r} is unknown; {hint} {', '.join(FAMILIES)}{more}")
    return FAMILIES[name]


@functools.lru_cache
def _holes(family: str) -> tuple[str, ...]:
    """Names of the numbers, in order of first appearance in the template."""
    return tuple(dict.fromkeys(re.findall(r"\{(\w+)\}", _family(family).template)))


@functools.lru_cache
def _pattern(family: str) -> re.Pattern:
    text = re.escape(_family(family).template)
    for name in _holes(family):
        text = text.replace(rf"\{{{name}\}}", rf"(?P<{name}>\d+)")
    return re.compile(text)


def _number(rng: random.Random, digits: int) -> int:
    """A number of exactly so many digits, never a power of ten."""
    return rng.randint(10 ** (digits - 1) + 1, 10**digits - 1)


def _modulus(rng: random.Random, digits: int) -> int:
    """A large odd modulus: remainders then spread over hundreds of values."""
    size = 10 ** (digits + 1)
    return rng.randrange(size // 2 + 1, size, 2)


def _draw_prod(rng, digits):
    return tuple(_number(rng, digits) for _ in range(3))


def _solve_prod(a, b, c):
    return sum(int(digit) ** 2 for digit in str(a * b + c))


def _draw_mod(rng, digits):
    return (*(_number(rng, digits) for _ in range(3)), _modulus(rng, digits))


def _solve_mod(a, b, c, m):
    x = a
    for _ in range(4):
        x = (b * x + c) % m
    return x


def _draw_lcm(rng, digits):
    # A shared factor makes the greatest common divisor interesting; a multiple beyond the
    # modulus keeps the answer from being one of the given numbers.
    low, high = 10 ** (digits - 1), 10**digits - 1
    while True:
        factor = rng.randint(2, 9)
        a, b = (factor * rng.randint(-(-low // factor), high // factor) for _ in range(2))
        if math.lcm(a, b) > 10 * high:
            return a, b, _modulus(rng, digits)


def _solve_lcm(a, b, m):
    return math.lcm(a, b) % m


def _draw_count(rng, digits):
    return _number(rng, digits + 1), rng.randint(3, 9), _number(rng, digits)


def _solve_count(n, a, b):
    return sum(1 for k in range(1, n + 1) if k % a and k % b)


def _draw_poly(rng, digits):
    return (*(_number(rng, digits) for _ in range(3)), _modulus(rng, digits))


def _solve_poly(a, b, n, m):
    return sum(a * k * k + b for k in range(1, n + 1)) % m


def _walk_of(family: str):
    return lambda rng, _: walks.draw(family, rng)  # their sizes are their own, not `digits`


FAMILIES = {
    "prod": Family(
        "Let p = {a}*{b}+{c}. What is the sum of the squares of the digits of p?",
        _draw_prod, _solve_prod,
    ),
    "mod": Family(
        "Start with x = {a}. Four times, replace x by ({b}*x+{c}) mod {m}. What is x?",
        _draw_mod, _solve_mod,
    ),
    "lcm": Family(
        "What is the least common multiple of {a} and {b}, modulo {m}?",
        _draw_lcm, _solve_lcm,
    ),
    "count": Family(
        "How many integers from 1 to {n} are divisible by neither {a} nor {b}?",
        _draw_count, _solve_count,
    ),
    "poly": Family(
        "Let f(k) = {a}*k*k+{b}. What is f(1)+...+f({n}) modulo {m}?",
        _draw_poly, _solve_poly,
    ),
    **{name: Family(walks.TEMPLATE, _walk_of(name), walks.solve) for name in walks.SIZES},
}
