"""What the answer verifier accepts and refuses, on real gold answers rewritten by rules.

    python -m experiments.benchmarks.verifier ../shared/data/problems
    python -m experiments.benchmarks.verifier DIRECTORY --each=200

Every distinct gold answer of every problem file of the directory is spelled anew by `WRONG`
(rules that change the answer: how many are accepted?) and by `HARMLESS` (rules that keep it:
how many are refused?), and compared with itself. `--each` bounds how many of the plain
integers are used, which are nearly all alike. Also timed: one answer at a time, and 1,000
mixed answers at once, on the processors of this machine.
"""

import collections
import pathlib
import re
import statistics
import time

from absl import app, flags

from aster_jax.data import problems
from aster_jax.reward import verify

EACH = flags.DEFINE_integer("each", 1000, "how many plain integers are used as gold answers")
SHOWN = flags.DEFINE_integer("shown", 5, "how many misses of each rule are shown")
INTEGER, NUMBER = re.compile(r"-?\d+"), re.compile(r"-?\d*\.?\d+")
FRACTION = re.compile(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}")
BASED = re.compile(r"(\d+)_\{?(\d+)\}?")
MIXED = re.compile(r"\d ?\\d?frac")
WORD = re.compile(r"\\text\{\s*\(?([a-zA-Z]+)\)?\}")


def is_integer(gold: str) -> bool:
    """A plain integer."""
    return INTEGER.fullmatch(gold) is not None


def is_number(gold: str) -> bool:
    """A plain integer or decimal."""
    return NUMBER.fullmatch(gold) is not None


def is_value(gold: str) -> bool:
    """Neither words nor a relation nor a list."""
    return WORD.fullmatch(gold) is None and not re.search(r"[=,]|\\in|\\cup|text|mbox|\$", gold)


def always(gold: str) -> bool:
    """Any gold answer."""
    return True


def other_digit(gold: str) -> str:
    """The last digit is another one."""
    at = max(i for i, c in enumerate(gold) if c.isdigit())
    return gold[:at] + str((int(gold[at]) + 3) % 10) + gold[at + 1 :]


def has_digit(gold: str) -> bool:
    """There is one to change."""
    return any(c.isdigit() for c in gold)


def negated(gold: str) -> str:
    """The other sign."""
    return gold[1:] if gold.startswith("-") else f"-({gold})"


def is_nonzero_value(gold: str) -> bool:
    """What the other sign changes."""
    return (
        is_value(gold)
        and gold.strip("-0.") != ""
        and "pm" not in gold
        and "_" not in gold
        and (not gold.startswith(("(", "[", "{", "\\{")) and "circ" not in gold)
    )


def reversed_word(gold: str) -> str:
    """The same letters, backwards."""
    word = WORD.fullmatch(gold)[1]
    return gold.replace(word, word[::-1])


def is_word(gold: str) -> bool:
    """A word that differs from itself backwards."""
    found = WORD.fullmatch(gold)
    return found is not None and found[1].lower() != found[1].lower()[::-1]


def in_python(gold: str) -> str:
    """As Python prints it."""
    text = FRACTION.sub(r"\1\2/\3", gold)
    text = re.sub(r"\\sqrt\{(\w+)\}", r"sqrt(\1)", text).replace("\\pi", "pi")
    text = re.sub(r"(\d)\s*(?=sqrt|pi|[a-zA-Z(])", r"\1*", text).replace("\\cdot", "*")
    text = re.sub(r"\^\{?(\d+)\}?", r"**\1", text).replace(" ", "")
    return re.sub(r"(?<=[a-zA-Z)])(?<!sqrt)(?=\()", "*", text)


def python_can(gold: str) -> bool:
    """Only what `in_python` can spell."""
    rest = re.sub(r"\\d?frac\{\d+\}\{\d+\}|\\sqrt\{\d+\}|\\pi|\\cdot", "", gold)
    return (
        is_value(gold)
        and not MIXED.search(gold)
        and "\\" not in rest
        and "_" not in rest
        and not re.search("[a-z]{2}", rest)
    )


def unicode_signs(gold: str) -> str:
    """Signs, superscripts and roots as Unicode has them."""
    text = (
        gold.replace("-", "−").replace("\\cdot", "·").replace("\\pi", "π").replace("^\\circ", "°")
    )
    text = re.sub(r"\\sqrt\{(\d+)\}", r"√\1", text).replace("\\cup", "∪").replace("\\infty", "∞")
    text = re.sub(r"\^([0-9])(?!\d)", lambda m: "⁰¹²³⁴⁵⁶⁷⁸⁹"[int(m[1])], text)
    return text.replace("\\pm", "±")


WRONG = {
    "an equation of two names": (is_value, lambda g: f"x+y={g}"),
    "a false equation": (is_integer, lambda g: f"{int(g) + 1}={g}"),
    "a linear equation": (is_value, lambda g: f"3x+4y={g}"),
    "an inequality": (is_value, lambda g: f"x > {g}"),
    "not equal": (is_value, lambda g: f"\\neq {g}"),
    "a number word": (is_number, lambda g: f"{g}\\text{{ million}}"),
    "or more": (is_value, lambda g: f"{g}\\text{{ or more}}"),
    "a base added": (is_integer, lambda g: f"{g}_7"),
    "another base": (BASED.fullmatch, lambda g: BASED.sub(r"\1_{11}", g)),
    "the base left out": (BASED.fullmatch, lambda g: BASED.fullmatch(g)[1]),
    "another word": (WORD.fullmatch, lambda g: "\\text{Wednesday}"),
    "letters reversed": (is_word, reversed_word),
    "the next number": (is_integer, lambda g: str(int(g) + 1)),
    "the last digit": (has_digit, other_digit),
    "the other sign": (is_nonzero_value, negated),
    "a second candidate": (is_value, lambda g: f"{g}, 987654"),
    "or another": (is_value, lambda g: f"987654 \\text{{ or }} {g}"),
    "a factor": (is_nonzero_value, lambda g: f"2({g})"),
    "a name beside it": (is_nonzero_value, lambda g: f"({g})k"),
    "a tiny addend": (is_number, lambda g: f"{g}+10^{{-20}}"),
    "the integer before": (is_integer, lambda g: f"{int(g) - 1}.999999"),
    "a chain": (is_value, lambda g: f"1=2={g}"),
    "until it": (is_integer, lambda g: f"1, 2, \\ldots, {g}"),
    "a congruence": (is_integer, lambda g: f"n \\equiv 1 \\pmod{{{g}}}"),
}
HARMLESS = {
    "itself": (always, lambda g: g),
    "\\dfrac": (lambda g: "frac" in g, lambda g: g.replace("\\frac", "\\dfrac")),
    "spaces": (always, lambda g: re.sub(r"(?<=[-+=,(])|(?=[-+=,)])", " ", f" {g} ")
               if not re.search(r"\d,\\?!?\s*\d{3}|text|mbox|begin", g) else f"  {g} "),
    "\\left \\right": (lambda g: re.fullmatch(r"[(\[].*[)\]]", g) and not re.search("cup|left", g),
                       lambda g: f"\\left{g[:-1]}\\right{g[-1]}"),
    "dollars around": (always, lambda g: f"${g}$"),
    "brackets around": (always, lambda g: f"\\( {g} \\)"),
    "set as text": (is_number, lambda g: f"\\text{{{g}}}"),
    "bold": (is_number, lambda g: f"\\mathbf{{{g}}}"),
    "a full stop": (always, lambda g: f"{g}."),
    "thousands by commas": (is_integer, lambda g: f"{int(g):,}"),
    "thousands by spaces": (is_integer, lambda g: f"{int(g):,}".replace(",", "\\,")),
    "decimal zeros": (is_number, lambda g: f"{g}.00" if is_integer(g) else f"{g}00"),
    "as Python prints it": (python_can, in_python),
    "Unicode signs": (always, unicode_signs),
    "a name in front": (is_value, lambda g: f"x = {g}"),
    "a longer name": (is_value, lambda g: f"f(3) = {g}"),
    "a unit behind": (is_number, lambda g: f"{g} \\text{{ cm}}"),
    "a dollar sign": (is_number, lambda g: f"\\${g}"),
    "\\cdot for side by side": (lambda g: re.search(r"\d ?\\(?:sqrt|pi)", g),
                                lambda g: re.sub(r"(\d) ?(?=\\(?:sqrt|pi))", r"\1 \\cdot ", g)),
    "a slash for \\frac": (lambda g: FRACTION.search(g) and not MIXED.search(g),
                         lambda g: FRACTION.sub(r"\1\2/\3", g)),
    "as a fraction": (is_integer, lambda g: f"\\frac{{{2 * int(g)}}}{{2}}"),
    "as a sum": (is_integer, lambda g: f"{int(g) - 5}+5"),
    "a percent sign behind": (lambda g: is_integer(g) and abs(int(g)) > 1, lambda g: f"{g}\\%"),
}  # fmt: skip


def golds_of(directory: pathlib.Path, each: int) -> list[str]:
    """The distinct gold answers of all problem files, and at most `each` plain integers."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.suffix in (".json", ".jsonl", ".parquet"):
            for problem in problems.load(path, "drop"):
                found[problem.answer] = None
    integers = [gold for gold in found if is_integer(gold)]
    dropped = set(integers[each:])
    return [gold for gold in found if gold not in dropped]


def tried(verifier: verify.Verifier, golds: list[str], rules: dict) -> dict[str, list]:
    """For each rule (gold, answer, whether it was accepted, the verdict) of all golds it fits."""
    pairs = {
        name: [(gold, spell(gold)) for gold in golds if fits(gold)]
        for name, (fits, spell) in rules.items()
    }
    flat = [(f"\\boxed{{{said}}}", gold) for made in pairs.values() for gold, said in made]
    scored = iter(verifier.score(flat))
    return {
        name: [(gold, said, reward > 0, verdict) for gold, said in made
               for reward, verdict in [next(scored)]]
        for name, made in pairs.items()
    }  # fmt: skip


def show(title: str, results: dict[str, list], wanted: bool) -> None:
    """A row for each rule, and some of what came out otherwise than wanted."""
    total = sum(map(len, results.values()))
    missed = sum(row[2] != wanted for rows in results.values() for row in rows)
    print(f"{title}: {missed} of {total} ({missed / max(total, 1):.3%})")
    for name, rows in results.items():
        bad = [row for row in rows if row[2] != wanted]
        print(f"  {name:28} {len(bad):5} of {len(rows)}")
        for gold, said, _, verdict in bad[: SHOWN.value]:
            print(f"      gold {gold}   said {said}   {verdict}")


def timed(verifier: verify.Verifier, golds: list[str]) -> None:
    """One at a time, then 1,000 at once; each with a space more, so that none is remembered."""
    symbolic = [gold for gold in golds if not is_integer(gold)] or golds
    mixed = [
        (f"\\boxed{{{symbolic[(i + i % 2) % len(symbolic)]}+{i}-{i}}}", symbolic[i % len(symbolic)])
        for i in range(1000)
    ]
    times = []
    for text, gold in mixed[:200]:
        began = time.perf_counter()
        verifier.score([(text.replace("+", "+0+", 1), gold)])
        times.append(time.perf_counter() - began)
    median, longest = 1e3 * statistics.median(times), 1e3 * max(times)
    print(f"one answer: median {median:.2f} ms, longest {longest:.0f} ms")
    began = time.perf_counter()
    verdicts = collections.Counter(verdict for _, verdict in verifier.score(mixed))
    print(f"1,000 mixed answers: {time.perf_counter() - began:.2f} s {dict(verdicts)}")


def main(arguments: list[str]) -> None:
    """Rewrites, scores, prints."""
    if len(arguments) != 2:
        raise app.UsageError("give the directory with the problem files")
    golds = golds_of(pathlib.Path(arguments[1]), EACH.value)
    print(f"{len(golds)} distinct gold answers, {sum(map(is_integer, golds))} plain integers")
    with verify.Verifier() as verifier:
        show("wrong answers accepted", tried(verifier, golds, WRONG), wanted=False)
        show("right answers refused", tried(verifier, golds, HARMLESS), wanted=True)
        timed(verifier, golds)
        for trouble in verifier.troubles:
            print("trouble:", trouble)


if __name__ == "__main__":
    app.run(main)
