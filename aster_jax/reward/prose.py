"""math-verify: answers inside prose, and the notation of calculus.

A box holds an answer and nothing else, so `read.py` reads it whole or not at all. Where an
answer has to be found in a text first, and where an expression is a sum, a product, an
integral or a limit, math-verify finds and reads it. It sets no timers of its own here: the
comparison's process is ended from outside.
"""

import logging
from collections.abc import Sequence

import math_verify

# It warns that its own time-outs are off, which is the point here.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

EQUIVALENT, WRONG, BAD_GOLD = "equivalent", "wrong", "bad_gold"
DECIMALS = 6  # that math-verify rounds numbers to, as its own cases expect


def compare(gold: str, answer: str, targets: Sequence[str]) -> str:
    """Whether two texts that hold an answer somewhere hold the same one.

    `targets`: what is looked for, "latex", "expr" or both. Returns EQUIVALENT, WRONG (which
    includes an answer that cannot be read), or BAD_GOLD when the reference cannot be read.
    """
    known = {
        "latex": math_verify.LatexExtractionConfig(boxed_match_priority=0),
        "expr": math_verify.ExprExtractionConfig(),
    }
    wanted = tuple(known[name] for name in targets)
    parsed = [math_verify.parse(text, wanted, parsing_timeout=None) for text in (gold, answer)]
    if not parsed[0]:
        return BAD_GOLD
    same = math_verify.verify(*parsed, float_rounding=DECIMALS, timeout_seconds=None)
    return EQUIVALENT if same else WRONG


def same_calculus(gold: str, answer: str) -> bool:
    """Whether two expressions are equal of which one is written with calculus.

    Both have to be read as LaTeX, and equal to 50 digits; the caller has made sure that
    there is no list, no word and no inequality in them.
    """
    config = (math_verify.LatexExtractionConfig(boxed_match_priority=0),)
    how = {"parsing_timeout": None, "fallback_mode": "no_fallback"}
    parsed = [math_verify.parse(f"\\boxed{{{text}}}", config, **how) for text in (gold, answer)]
    if not all(parsed):
        return False
    exactly = {"float_rounding": 50, "numeric_precision": 50, "timeout_seconds": None}
    return math_verify.verify(*parsed, **exactly)
