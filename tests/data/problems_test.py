"""Problem files of every format, what is wrong with bad ones, overlap, and the order."""

import json
import re

import hypothesis
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import strategies

from aster_jax import types
from aster_jax.data import problems
from tests import shared_data


@pytest.mark.parametrize(
    "name, count, first_answer, family, first_id",
    [
        ("aime24.jsonl", 30, "204", "aime24", "aime24/60"),
        ("aime25.parquet", 30, "70", "aime2025", "aime25/0"),
        ("hmmt25.parquet", 30, "103", "hmmt25", "hmmt25/1"),
        ("dapo_filtered.parquet", 5104, "34", "math_dapo", None),
        ("math500.json", 500, "\\left( 3, \\frac{\\pi}{2} \\right)", "math500", None),
        ("amc23.jsonl", 40, "27", "amc23", "amc23/0"),
        ("gsm8k_test.jsonl", 1319, "18", "gsm8k_test", None),
    ],
)
def test_real_files(name, count, first_answer, family, first_id):
    found = problems.load(shared_data.path(f"problems/{name}"))
    assert len(found) == count == len({p.id for p in found})
    assert (found[0].answer, found[0].family) == (first_answer, family)
    assert first_id is None or found[0].id == first_id
    if family in ("math_dapo", "gsm8k_test", "amc23"):
        assert all(re.fullmatch(r"-?\d+", p.answer) for p in found)


def test_verl_prompt_is_kept_to_the_character():
    found = problems.load(shared_data.path("problems/aime25.parquet"))
    assert found[0].question.startswith("\nFind") and found[0].question.endswith("\\boxed{}.\n")


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_ids_do_not_depend_on_the_order(tmp_path):
    a, b = {"question": "1+1?", "answer": 2}, {"question": "2+2?", "answer": "4"}
    one = problems.load(write(tmp_path / "p.jsonl", a, b))
    other = problems.load(write(tmp_path / "p.jsonl", b, a))
    assert {p.id: p for p in one} == {p.id: p for p in other}
    assert one[0].answer == "2" and one[0].id.startswith("p/")


USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    "record, says",
    [
        ({"question": "q"}, "row 2 has no answer; add a field 'answer'"),
        ({"question": "q", "answer": " "}, "row 2: field 'answer' is empty"),
        ({"question": "q", "answer": None}, "row 2: field 'answer' must be text or a number"),
        ({"question": "q", "answer": True}, "row 2: field 'answer' must be text or a number"),
        ({"text": "q", "answer": "1"}, "row 2 has no question.*fields: text, answer"),
        ({"prompt": [], "answer": "1"}, "row 2: field 'prompt' must hold exactly one user"),
        ({"prompt": 3, "answer": "1"}, "row 2: field 'prompt' is 3, not text or a list"),
        ({"prompt": [{"role": "user"}], "answer": "1"}, "must hold exactly one user"),
        ({"prompt": ["q"], "answer": "1"}, "row 2: field 'prompt', message 0 is a str"),
        (
            {"prompt": [{"role": "system", "content": "In base 7."}, USER], "answer": "1"},
            "row 2: field 'prompt' has a system message .'In base 7.'., which would be lost",
        ),
        ({"prompt": [USER, {"role": "assistant", "content": "So"}], "answer": "1"}, "'assistant'"),
        ({"prompt": [USER, {"role": "tool", "content": "4"}], "answer": "1"}, "'tool'"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "1"}, "'image'"),
        ({"question": "q", "system": "In base 7.", "answer": "1"}, "row 2: field 'system' .'In ba"),
        ({"question": "q", "answer": float("nan")}, "row 2: field 'answer' is nan, which stands"),
        ({"question": "q", "answer": float("-inf")}, "row 2: field 'answer' is -inf, which"),
        ({"question": "q\ud800", "answer": "1"}, "row 2 holds half of a surrogate pair"),
        ({"question": "q", "answer": "1", "id": "\udfff"}, "row 2 holds half of a surrogate pair"),
        ({"question": "q", "answer": "1", "family": "a\ud800"}, "row 2 holds half of a surrogate"),
        ({"question": "q", "answer": "1", "data_source": "\ud800"}, "row 2 holds half of a surrog"),
        (
            {"question": "q", "reward_model": {"ground_truth": ""}},
            "row 2: field 'reward_model.ground_truth' is empty",
        ),
        (["q"], "row 2 is not an object"),
        ({"question": "fine?", "answer": "1"}, "row 2 repeats the question of row 1; remove one"),
        ({"question": "fine?", "answer": "2"}, "row 2 repeats .* of row 1 with another answer"),
        ({"question": "other?", "answer": "2", "id": 7}, "rows 1 and 2 have the same id 'bad/7'"),
    ],
)
def test_bad_rows_are_named(tmp_path, record, says):
    good = {"question": "fine?", "answer": "1", "id": 7}
    path = write(tmp_path / "bad.jsonl", good, record)
    with pytest.raises(ValueError, match=says) as caught:
        problems.load(path)
    assert str(path) in str(caught.value)


def test_bad_files_are_named(tmp_path):
    empty = write(tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="holds no problems"):
        problems.load(empty)
    with pytest.raises(ValueError, match="does not exist"):
        problems.load(tmp_path / "absent.jsonl")
    (tmp_path / "torn.jsonl").write_text('{"question": "q", "answer": "1"}\n{"quest')
    with pytest.raises(ValueError, match="row 2 is not JSON"):
        problems.load(tmp_path / "torn.jsonl")
    for text in ('{"question": "q", "answer": ' + "1" * 5000 + "}", "[" * 100_000):
        (tmp_path / "torn.jsonl").write_text(text)
        with pytest.raises(ValueError, match="row 1 is not JSON"):
            problems.load(tmp_path / "torn.jsonl")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cannot be read as .json"):
        problems.load(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"question": "q"}')
    with pytest.raises(ValueError, match="not a JSON list"):
        problems.load(tmp_path / "a.json")
    (tmp_path / "a.parquet").write_text("junk")
    with pytest.raises(ValueError, match="cannot be read as .parquet"):
        problems.load(tmp_path / "a.parquet")
    rows = pyarrow.Table.from_pylist([{"question": "q", "answer": "1"}] * 99)
    pyarrow.parquet.write_table(rows, tmp_path / "a.parquet")
    whole = bytearray((tmp_path / "a.parquet").read_bytes())
    whole[-200:-8] = bytes(192)
    (tmp_path / "a.parquet").write_bytes(whole)
    with pytest.raises(ValueError, match="cannot be read as .parquet"):
        problems.load(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("junk")
    with pytest.raises(ValueError, match="neither .jsonl"):
        problems.load(tmp_path / "a.csv")


def test_duplicates_can_be_dropped_explicitly(tmp_path):
    row = {"question": "1+1?", "answer": "2"}
    path = write(tmp_path / "p.jsonl", row, {"question": "2+2?", "answer": "4"}, row, row)
    assert [p.answer for p in problems.load(path, duplicates="drop")] == ["2", "4"]
    assert problems.num_repeats(path) == 2
    write(path, row, {**row, "answer": "3"})
    with pytest.raises(ValueError, match="with another answer"):
        problems.load(path, duplicates="drop")
    with pytest.raises(ValueError, match="duplicates='maybe'"):
        problems.load(tmp_path / "p.jsonl", duplicates="maybe")


def test_parquet_and_json_say_the_same(tmp_path):
    rows = [{"question": "1+1?", "answer": "2"}, {"question": "half?", "answer": "0.5"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    (tmp_path / "p.json").write_text(json.dumps(rows))
    assert problems.load(tmp_path / "p.parquet") == problems.load(tmp_path / "p.json")


def test_a_missing_number_of_a_float_column_is_no_gold(tmp_path):
    def load(*answers):
        rows = [{"question": f"{i}?", "answer": a} for i, a in enumerate(answers)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
        return [p.answer for p in problems.load(tmp_path / "p.parquet")]

    assert load(1.0, 2.5) == ["1", "2.5"] and load("yes", "Infinity") == ["yes", "Infinity"]
    for answers in ((1.0, float("nan")), ("1.0", "nan"), (2.0, float("inf")), ("2.5", "Infinity")):
        with pytest.raises(ValueError, match="p.parquet row 2: field 'answer' is .*missing"):
            load(*answers)


def test_an_empty_system_message_and_parts_are_read(tmp_path):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "1+1?"}]
    talk = [{"role": "system", "content": ""}, {"role": "user", "content": parts}]
    found = problems.load(write(tmp_path / "p.jsonl", {"prompt": talk, "answer": "2"}))
    assert found[0].question == "What is 1+1?"
    found = problems.load(write(tmp_path / "p.jsonl", {"prompt": None, "problem": "q", "answer": 1}))
    assert found[0].question == "q"


def test_known_copies_between_real_files_are_found():
    train = problems.load(shared_data.path("problems/dapo_filtered.parquet"))
    held = problems.load(shared_data.path("problems/math500.json"))
    pairs = problems.overlaps(train, held)
    assert sorted(mine.answer for mine, _ in pairs) == ["440", "501", "850"]
    assert {other.id.split("/")[-1] for _, other in pairs} == {"1849.json", "582.json", "1411.json"}
    assert len(problems.without_overlap(train, held)) == 5101


def test_overlap_ignores_spelling_and_instructions_only():
    def problem(question):
        return types.Problem(question, question, "1", "f")

    held = [problem("What is $x + 1$, if x = 2?")]
    copy = problem(
        "what is $x+1$,  if $x=2$?\nPlease reason step by step, and put your final answer "
        "within \\boxed{}."
    )
    different = problem("What is $x + 1$, if x = 3?")
    assert problems.without_overlap([copy, different], held) == [different]


@hypothesis.settings(derandomize=True, max_examples=40, deadline=None)
@hypothesis.given(
    strategies.integers(1, 40), strategies.integers(1, 12), strategies.integers(0, 3)
)
def test_order_misses_none_and_repeats_none_in_a_step(n, size, seed):
    if size > n:
        with pytest.raises(ValueError, match="different problems"):
            problems.batch(n, size, 0, seed)
        return
    steps = 3 * (n // size)
    batches = [problems.batch(n, size, step, seed) for step in range(steps)]
    assert all(len(set(b)) == size for b in batches)
    visits = [sum(i in b for b in batches) for i in range(n)]
    assert sum(visits) == steps * size
    # Carried over: nobody waits longer than the next epoch.
    first_two = {i for b in batches[: 2 * (n // size)] for i in b}
    assert first_two == set(range(n))
    # Random access: asked alone, a step is what it was in the row.
    problems._order.cache_clear()
    assert problems.batch(n, size, steps - 1, seed) == batches[-1]


def test_order_depends_on_seed_and_epoch():
    assert problems.batch(50, 10, 0, 0) != problems.batch(50, 10, 0, 1)
    assert problems.batch(50, 50, 0, 0) != problems.batch(50, 50, 1, 0)


def test_spare_problems_are_others_and_the_same_each_time():
    taken = set(problems.batch(20, 8, 3, 0))
    drawn = problems.spare(20, taken, 5, 3, 1, 0)
    assert len(set(drawn)) == 5 and not taken & set(drawn)
    assert drawn == problems.spare(20, taken, 5, 3, 1, 0)
    assert drawn != problems.spare(20, taken, 5, 3, 2, 0) != problems.spare(20, taken, 5, 4, 2, 0)
    # No more than there are.
    assert sorted(problems.spare(20, taken, 99, 3, 1, 0)) == sorted(set(range(20)) - taken)
    assert problems.spare(8, set(range(8)), 2, 0, 1, 0) == []
