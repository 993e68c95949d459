"""The demos stage's own decisions: nothing that is held out is demonstrated."""

import json

from aster_jax import config, types
from aster_jax.demos import curate
from aster_jax.demos import run as demos


def transcript(i, question):
    problem = types.Problem(f"d{i}", question, "1", "f")
    return curate.Transcript(problem, ({"role": "assistant", "content": ""},), ())


def test_demonstrations_of_held_out_questions_are_left_out(tmp_path):
    """Up to spelling, and of every held-out file that the config names."""
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text(json.dumps({"question": "What is 2 plus 2?", "answer": "4"}) + "\n")
    two.write_text(json.dumps({"question": "How many primes are below 10?", "answer": "4"}) + "\n")
    c = config.default()
    c.problems.heldout = str(one)
    c.eval.also = ({"name": "two", "heldout": str(two)},)
    asked = ["What is 2 plus 3?", "what is 2  plus 2", "How many primes are below 10 ?", "Else?"]
    made = [transcript(i, question) for i, question in enumerate(asked)]
    kept = demos._not_held_out(c, made)
    assert [t.problem.id for t in kept] == ["d0", "d3"]
    c.problems.heldout, c.eval.also = "generated", ()
    assert demos._not_held_out(c, made) == made
