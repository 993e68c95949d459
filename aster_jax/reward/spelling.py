"""Unicode and typesetting around mathematics: one spelling for what looks the same.

Shared by the trainer's side (`answer.py`) and the reader in the comparison's process
(`tokens.py`). Tables and one pass of linear substitutions; nothing here knows mathematics.
"""

import re
import unicodedata

MINUS = dict.fromkeys("−–—‒‑‐﹣－", "-")
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
    "varsigma sigma tau upsilon phi chi psi omega"
).split()
_SIGNS = {
    "×": r"\times ", "✕": r"\times ", "·": r"\cdot ", "∙": r"\cdot ", "⋅": r"\cdot ",
    "•": r"\cdot ", "∗": "*", "÷": r"\div ", "∕": "/", "⁄": "/", "±": r"\pm ", "∓": r"\mp ",
    "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] ", "∞": r"\infty ", "≤": r"\le ",
    "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "≡": r"\equiv ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ",
    "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "°": r"^\circ ", "º": r"^\circ ",
    "˚": r"^\circ ", "∠": r"\angle ", "△": r"\triangle ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    "∨": r"\lor ", "∧": r"\land ", "…": r"\ldots ", "⋯": r"\ldots ", "′": "'", "’": "'",
    "%": "%", "€": r"\euro ", "£": r"\pounds ", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    "\u2062": "", "\u200b": "", "\ufeff": "", "ϕ": r"\phi ", "ϵ": r"\epsilon ",
}  # fmt: skip
_SIGNS |= {chr(0x3B1 + i): f"\\{name} " for i, name in enumerate(_GREEK)}
_SIGNS |= {chr(0x391 + i): f"\\{name.capitalize()} " for i, name in enumerate(_GREEK)}
_SIGNS |= {chr(c): unicodedata.normalize("NFKC", chr(c)) for c in range(0xFF01, 0xFF5F)}
_FRACTIONS = {
    c: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", c).split("⁄"))
    for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"
}
_SIMPLE = str.maketrans(_SIGNS | MINUS | _FRACTIONS)
_UP = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni"))
_DOWN = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙᵢ", "0123456789+-()ni"))
_RAISED = re.compile(f"[{''.join(_UP)}]+")
_LOWERED = re.compile(f"[{''.join(_DOWN)}]+")


def plain(text: str) -> str:
    """ASCII and LaTeX in place of Unicode signs, superscripts, fractions and Greek."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda run: "^{" + "".join(_UP[c] for c in run[0]) + "}", text)
    text = _LOWERED.sub(lambda run: "_{" + "".join(_DOWN[c] for c in run[0]) + "}", text)
    return text.translate(_SIMPLE)
