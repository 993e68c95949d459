"""Random expressions with spellings: what the property test of the verifier draws from.

Nothing here knows the reader: an expression is a tree of its own, its value is mpmath's.
"""

import random

import mpmath

DIGITS = 150  # exact integers of 80 digits are among them


def draw(rng: random.Random, depth: int) -> tuple:
    """A random expression, with the names in it for which `value` takes numbers."""
    if rng.random() < 0.1:
        return ("name", rng.choice("xyn"))
    kinds = (
        ("int", "int", "dec", "frac", "pi", "sqrt")
        if depth == 0
        else (
            "sum",
            "sub",
            "mul",
            "div",
            "pow",
            "neg",
            "fact",
            "binom",
            "log",
            "sin",
            "sqrt",
            "int",
        )
    )
    kind = rng.choice(kinds)
    if kind == "int":
        return (
            "int",
            rng.choice((rng.randint(1, 12), rng.randint(1, 9999), rng.randint(0, 10**18))),
        )
    if kind == "dec":
        return ("dec", f"{rng.randint(0, 99)}.{rng.randint(1, 9999)}")
    if kind == "frac":
        return ("frac", rng.randint(1, 60), rng.randint(2, 60))
    if kind == "pi":
        return ("pi",)
    if kind == "fact":
        return ("fact", rng.randint(3, 12))
    if kind == "binom":
        return ("binom", rng.randint(4, 30), rng.randint(1, 4))
    if kind == "log":
        return ("log", rng.randint(2, 9), rng.randint(2, 99))
    if kind == "sin":
        return ("sin", rng.randint(1, 5), rng.choice((7, 8, 9, 12)))
    if kind == "sqrt":
        return ("sqrt", ("int", rng.randint(2, 99)))
    if kind == "neg":
        return ("neg", draw(rng, depth - 1))
    if kind == "pow":
        return ("pow", draw(rng, depth - 1), rng.randint(2, 5))
    return (kind, draw(rng, depth - 1), draw(rng, depth - 1))


def value(e: tuple, names: dict):
    """Its value; None where it has none."""
    kind = e[0]
    if kind == "name":
        return names[e[1]]
    if kind in ("sum", "sub", "mul", "div"):
        a, b = value(e[1], names), value(e[2], names)
        if a is None or b is None or kind == "div" and b == 0:
            return None
        return {"sum": a + b, "sub": a - b, "mul": a * b, "div": a / b if b else None}[kind]
    if kind in ("neg", "pow"):
        a = value(e[1], names)
        return None if a is None else -a if kind == "neg" else a ** e[2]
    return {
        "int": lambda n: mpmath.mpf(n), "dec": lambda t: mpmath.mpf(t),
        "frac": lambda a, b: mpmath.mpf(a) / b, "pi": lambda: +mpmath.mp.pi,
        "fact": lambda n: mpmath.factorial(n), "binom": lambda n, k: mpmath.binomial(n, k),
        "log": lambda b, x: mpmath.log(x) / mpmath.log(b),
        "sin": lambda p, q: mpmath.sin(p * mpmath.mp.pi / q),
        "sqrt": lambda a: mpmath.sqrt(a[1]),
    }[kind](*e[1:])  # fmt: skip


def latex(e: tuple, rng: random.Random) -> str:
    """One of its spellings in LaTeX."""
    kind = e[0]
    if kind == "int":
        n = e[1]
        plain = (str(n), f"{n}.0", f"{n}.", f"{n:,}".replace(",", "{,}"), f"\\mathbf{{{n}}}")
        return rng.choice((str(n), *plain[: 2 if n else 1], *plain[3:]))
    if kind == "dec":
        return rng.choice((e[1], e[1] + "0", e[1].removeprefix("0") if e[1][0:2] == "0." else e[1]))
    if kind == "frac":
        a, b = e[1:]
        short = f"\\frac{a}{b}" if a < 10 and b < 10 else f"\\tfrac{{{a}}}{{{b}}}"
        return rng.choice((f"\\frac{{{a}}}{{{b}}}", f"\\dfrac{{{a}}}{{{b}}}", short, f"({a}/{b})"))
    if kind == "name":
        return e[1]
    if kind == "pi":
        return rng.choice(("\\pi", "π"))
    if kind == "sqrt":
        n = e[1][1]
        return rng.choice((f"\\sqrt{{{n}}}", f"\\sqrt{{ {n} }}", f"{n}^{{1/2}}", f"√{{{n}}}"))
    if kind == "fact":
        return f"{e[1]}!"
    if kind == "binom":
        n, k = e[1:]
        return rng.choice(
            (f"\\binom{{{n}}}{{{k}}}", f"\\dbinom{{{n}}}{{{k}}}", f"{{{n} \\choose {k}}}")
        )
    if kind == "log":
        b, x = e[1:]
        return rng.choice(
            (f"\\log_{{{b}}} {x}", f"\\log_{b}{{{x}}}", f"\\frac{{\\ln {x}}}{{\\ln {b}}}")
        )
    if kind == "sin":
        p, q = e[1:]
        return rng.choice((f"\\sin\\frac{{{p}\\pi}}{{{q}}}", f"\\sin({p}\\pi/{q})"))
    if kind == "neg":
        return f"-({latex(e[1], rng)})"
    if kind == "pow":
        return f"\\left({latex(e[1], rng)}\\right)^{{{e[2]}}}"
    a, b = f"({latex(e[1], rng)})", f"({latex(e[2], rng)})"
    if kind in ("sum", "mul") and rng.random() < 0.5:
        a, b = b, a
    joined = {
        "sum": (f"{a}+{b}", f"{a} + {b}"), "sub": (f"{a}-{b}", f"{a} − {b}"),
        "mul": (f"{a} \\cdot {b}", f"{a}{b}", f"{a} \\times {b}", f"{a}*{b}"),
        "div": (f"\\frac{{{a}}}{{{b}}}", f"{a}/{b}", f"{a} \\div {b}"),
    }[kind]  # fmt: skip
    return rng.choice(joined)


def python(e: tuple) -> str:
    """As Python and sympy print it."""
    kind = e[0]
    if kind in ("int", "dec", "name"):
        return str(e[1])
    if kind in ("sum", "sub", "mul", "div"):
        sign = {"sum": " + ", "sub": " - ", "mul": "*", "div": "/"}[kind]
        return f"({python(e[1])}){sign}({python(e[2])})"
    if kind == "pow":
        return f"({python(e[1])})**{e[2]}"
    if kind == "neg":
        return f"-({python(e[1])})"
    return {
        "frac": "Rational({}, {})", "pi": "pi", "sqrt": "sqrt({})", "fact": "factorial({})",
        "binom": "binomial({}, {})", "log": "(log({1})/log({0}))", "sin": "sin({}*pi/{})",
    }[kind].format(*(a[1] if isinstance(a, tuple) else a for a in e[1:]))  # fmt: skip


def respelled(e: tuple, rng: random.Random) -> str:
    """Another spelling of the same answer, by rules that keep its value."""
    text = python(e) if rng.random() < 0.3 else latex(e, rng)
    rules = (
        lambda t: t, lambda t: f" {t} ", lambda t: f"${t}$", lambda t: f"({t})",
        lambda t: f"x = {t}", lambda t: f"{t}+0", lambda t: f"1*({t})", lambda t: f"f(3) = {t}",
        lambda t: f"\\left({t}\\right)", lambda t: f"{{{t}}}", lambda t: f"2({t})/2\\text{{ cm}}",
        lambda t: f"({t})-17+17", lambda t: f"\\displaystyle {t}.", lambda t: f"AB = {t}",
    )  # fmt: skip
    return rng.choice(rules)(text)


def changed(e: tuple, rng: random.Random) -> tuple:
    """The tree with one leaf or operator changed; its value is nearly always another."""
    kind = e[0]
    if kind in ("sum", "sub", "mul", "div"):
        if rng.random() < 0.2:
            return (rng.choice([k for k in ("sum", "sub", "mul", "div") if k != kind]), *e[1:])
        at = rng.choice((1, 2))
        return (*e[:at], changed(e[at], rng), *e[at + 1 :])
    if kind == "neg":
        return e[1] if rng.random() < 0.3 else ("neg", changed(e[1], rng))
    if kind == "pow":
        if rng.random() < 0.5:
            return ("pow", e[1], e[2] + rng.choice((-1, 1)))
        return ("pow", changed(e[1], rng), e[2])
    if kind == "dec":
        return ("dec", e[1] + str(rng.randint(1, 9)))
    if kind == "pi":
        return ("int", 3)
    if kind == "name":
        return ("name", "z")
    if kind == "sqrt":
        return ("sqrt", ("int", e[1][1] + 1))
    at = rng.randrange(1, 2 if kind == "sin" else len(e))
    return (*e[:at], e[at] + 1, *e[at + 1 :])


def spoiled(e: tuple, rng: random.Random) -> str:
    """The same value with something beside it that makes it another answer."""
    text = latex(e, rng)
    return rng.choice((
        f"x+y = {text}", f"8 = 9 = {text}", f"{text}, 987654321", f"({text})\\text{{ million}}",
        f"x > {text}", f"({text})k", f"987654321 \\text{{ or }} {text}", f"\\neq {text}",
        f"({text})\\text{{ or more}}", f"1, 2, \\ldots, {text}", f"({text})^2+1/7", f"?{text}",
        f"\\text{{not }} {text}", f"({text}) \\mid 5", f"({text})'", f"{text} \\text{{ if }} n>1",
    ))  # fmt: skip
