"""One symbolic comparison, as it runs inside a killable process of the verifier's pool.

`reward/verify.py` sends the call as a cell, with the two answers as data. It sets no timers
of its own: the executor's clock stands in another process and ends a comparison that takes
too long.
"""

import logging
from collections.abc import Sequence

import math_verify

# It warns that its own time-outs are off, which is the point here.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

EQUIVALENT, WRONG, BAD_GOLD = "equivalent", "wrong", "bad_gold"


def compare(gold: str, answer: str, targets: Sequence[str], decimals: int) -> str:
    """Whether two texts hold the same mathematics, by math-verify.

    Args:
      gold, answer: texts with LaTeX in delimiters or boxes, or bare expressions.
      targets: what is looked for in them: "latex", "expr" or both.
      decimals: digits after the point that numbers are compared to.

    Returns EQUIVALENT, WRONG (which includes an answer that cannot be read), or BAD_GOLD
    when the reference itself cannot be read: that is our data's fault, not the model's.
    """
    known = {
        "latex": math_verify.LatexExtractionConfig(boxed_match_priority=0),
        "expr": math_verify.ExprExtractionConfig(),
    }
    wanted = tuple(known[name] for name in targets)
    parsed = [math_verify.parse(text, wanted, parsing_timeout=None) for text in (gold, answer)]
    if not parsed[0]:
        return BAD_GOLD
    same = math_verify.verify(*parsed, float_rounding=decimals, timeout_seconds=None)
    return EQUIVALENT if same else WRONG
