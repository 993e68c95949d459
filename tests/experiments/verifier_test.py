"""The rewriting rules of `benchmarks.verifier`, by hand and on a few real gold answers."""

import json

import pytest

from aster_jax.reward import verify
from experiments.benchmarks import verifier

GOLDS = [
    "34",
    "-7",
    "2.5",
    "\\frac{3}{4}",
    "52_8",
    "\\text{Evelyn}",
    "2\\sqrt{3}",
    "(3,4]",
    "x^2-3x",
    "58,500",
]


def test_rules_spell_what_they_say():
    said = {name: spell for name, (_, spell) in (verifier.WRONG | verifier.HARMLESS).items()}
    assert said["the last digit"]("\\frac{3}{4}") == "\\frac{3}{7}"
    assert said["letters reversed"]("\\text{east}") == "\\text{tsae}"
    assert said["another base"]("52_8") == "52_{11}"
    assert said["as Python prints it"]("-\\frac{9 }{2}".replace(" ", "")) == "-9/2"
    assert said["as Python prints it"]("2\\sqrt{3}+x^2") == "2*sqrt(3)+x**2"
    assert said["Unicode signs"]("-2\\sqrt{3}\\pi") == "−2√3π"
    assert said["thousands by commas"]("1234567") == "1,234,567"


def test_golds_are_distinct_and_few(tmp_path):
    answers = {"a": 5, "b": "5", "c": "6", "d": "x^2"}
    rows = [json.dumps({"question": q, "answer": said}) for q, said in answers.items()]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "notes.txt").write_text("none")
    assert verifier.golds_of(tmp_path, each=1) == ["5", "x^2"]


@pytest.mark.parametrize("rules, accepted", [("WRONG", False), ("HARMLESS", True)])
def test_a_few_golds_are_judged_as_the_rules_say(rules, accepted):
    with verify.Verifier() as made:
        results = verifier.tried(made, GOLDS, getattr(verifier, rules))
    rows = [(name, *row) for name, found in results.items() for row in found]
    assert len(rows) > 60 and [row for row in rows if row[3] != accepted] == []
