"""Each rule alone, counted by hand; the report adds up; the right copies are found."""

import dataclasses

import hypothesis
import pytest
from hypothesis import strategies as st

from aster_jax import types
from aster_jax.data import chat, problems
from aster_jax.demos import contamination, curate
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import InputError
from tests import shared_data


def made(i, calls=1, verdict="exact", question="", failed=(), void=0, finished=True, answer="4"):
    question = question or f"What is {i}?"
    messages = [{"role": "user", "content": question}]
    for n in range(calls):
        messages += [chat.call_message("", f"{n}"), {"role": "tool", "content": f"{n}"}]
    statuses = ["error" if n in failed else "ok" for n in range(calls)]
    for _ in range(void):
        messages += [chat.call_message("", "?"), {"role": "tool", "content": "no"}]
        statuses.append("malformed")
    messages.append({"role": "assistant", "content": f"\\boxed{{{answer}}}"})
    problem = types.Problem(f"p{i}", question, "4", "f")
    return Transcript(problem, tuple(messages), tuple(statuses), finished, verdict, f"row {i}")


def rules(**changed):
    return curate.Rules(**{"count": 100, "row_tokens": 100} | changed)


def ids(kept):
    return [t.origin for t in kept.transcripts]


def by_content(given, held=(), **changed):
    return curate.by_content(given, rules(**changed), held)


@pytest.mark.parametrize(
    "given, keys, reasons",
    [
        ([made(0), made(1, finished=False)], {}, {"unfinished": 1}),
        ([made(0), made(1, verdict="wrong"), made(2, verdict="no_answer")], {},
         {"wrong": 1, "no_answer": 1}),
        ([made(0), made(1, verdict="equivalent"), made(2, verdict="")], {}, {}),
        ([made(0, verdict="wrong")], {"right_only": False}, {}),
        ([made(0), made(1, verdict="verifier_timeout")], {}, {"verifier_timeout": 1}),
        ([made(n, n) for n in range(5)], {"min_calls": 2}, {"too_few_calls": 2}),
        ([made(n, n) for n in range(5)], {"min_calls": 2, "max_calls": 3},
         {"too_few_calls": 2, "too_many_calls": 1}),
        ([made(n, n) for n in range(5)], {"min_calls": 2, "text_only_share": 0.5},
         {"too_few_calls": 1}),
        ([made(0, 3, failed=(1,)), made(1, 3)], {"keep_errors": False}, {"failed_call": 1}),
        ([made(0, 3, failed=(1,)), made(1, 3)], {}, {}),
        ([made(0, void=1), made(1)], {}, {"void_turn": 1}),
        ([made(0, void=1), made(1, void=2)], {"max_void": 1}, {"void_turn": 1}),
        ([made(0, void=1), made(1)], {"min_calls": 2}, {"too_few_calls": 2}),  # no call was made
        ([made(0)] * 3, {"duplicates": "exact"}, {"duplicate": 2}),
        ([made(0)] * 3, {}, {}),
        ([made(0), made(0, answer=" 4")], {"duplicates": "exact"}, {}),
        ([made(0), made(0, answer=" 4")], {"duplicates": "similar"}, {"duplicate": 1}),
        ([made(0, 0), made(0, 0, answer="5")], {"duplicates": "similar"}, {}),
    ],
)  # fmt: skip
def test_each_rule(given, keys, reasons):
    kept = by_content(given, **keys)
    assert curate.reasons(kept.lines) == reasons
    assert len(kept.transcripts) == len(given) - sum(reasons.values())
    assert [d.reason.partition(":")[0] for d in kept.dropped] == [
        r for line in kept.lines for r in line.reasons for _ in range(line.reasons[r])
    ]


def test_a_turn_that_says_nothing_is_void():
    plain = made(0)
    waits = {"role": "assistant", "content": "I will compute it."}
    go = {"role": "user", "content": "Go on."}
    messages = (plain.messages[0], waits, go, *plain.messages[1:])
    assert dataclasses.replace(plain, messages=messages).num_void == 1 and plain.num_void == 0


def unwritable(t):
    messages = [dict(m) for m in t.messages]
    messages[1]["tool_calls"] = [{"name": "code_interpreter", "arguments": "not JSON"}]
    return dataclasses.replace(t, messages=tuple(messages))


def test_what_no_markup_can_hold_is_dropped_with_its_reason():
    kept = by_content([unwritable(made(0)), made(1)])
    assert ids(kept) == ["row 1"] and curate.reasons(kept.lines) == {"not_writable": 1}
    assert "not valid JSON" in kept.dropped[0].reason


@pytest.mark.parametrize("half", [
    made(0, answer="\ud83d"), made(0, question="What is \udc00?"),
    dataclasses.replace(made(0), problem=types.Problem("\ud83d", "What is 0?", "4", "f")),
])  # fmt: skip
def test_half_of_a_surrogate_pair_is_dropped_with_its_reason(half):
    kept = by_content([half, made(1)], held=[problem("What is 7?")])
    assert ids(kept) == ["row 1"] and curate.reasons(kept.lines) == {"not_writable": 1}
    assert "half of a surrogate pair" in kept.dropped[0].reason


def test_rows_that_are_no_transcript_are_the_first_line():
    kept = curate.by_content([made(0)], rules(), (), {"unusable_row": 2})
    assert curate.reasons(kept.lines) == {"unusable_row": 2} and len(kept.transcripts) == 1
    first = curate.table(kept.lines).splitlines()[2]
    assert first == "| usable rows | bad_rows | 3 | 1 | unusable_row: 2 |"


def render(t):
    """As many tokens as the answer says."""
    tokens = (0,) * int(t.final_text[7:-1])
    return types.Demo(t.problem.id, "f", tokens, tokens, t.num_calls)


def by_size(given, **changed):
    made_rules = rules(**changed)
    return curate.by_size(curate.by_content(given, made_rules, ()), made_rules, render)


def test_the_first_that_fit_are_kept_and_the_rest_is_counted():
    given = [made(i, answer=str(n)) for i, n in enumerate((5, 50, 6, 60, 7, 8))]
    kept, demos = by_size(given, row_tokens=10, count=3)
    assert ids(kept) == ["row 0", "row 2", "row 4"] and [len(d.tokens) for d in demos] == [5, 6, 7]
    assert curate.reasons(kept.lines) == {"too_long": 2, "more_than_count": 1}
    kept, _ = by_size(given, row_tokens=10, max_tokens=5)
    assert ids(kept) == ["row 0"]
    for keys, says in (({"row_tokens": 4}, "sft.row_tokens=4"), ({"max_tokens": 4}, "demos.max_tokens=4")):
        kept, demos = by_size(given, **keys)
        assert demos == [] and curate.reasons(kept.lines) == {"too_long": 6}
        assert f"none of 6 demonstrations fits {says}; the shortest has 5" in kept.error


def test_the_samples_of_a_problem_that_count_are_those_that_can_be_taught():
    """Too long, unwritable, then two that fit: of one problem, one of these two is kept."""
    samples = [made(0, 1, answer="50"), unwritable(made(0, 2)), made(0, 3), made(0, 4), made(1)]
    kept, _ = by_size(samples, row_tokens=10, max_per_problem=1)
    assert [t.num_calls for t in kept.transcripts] == [3, 1]
    assert curate.reasons(kept.lines) == {"too_long": 1, "not_writable": 1, "more_per_problem": 1}
    kept, _ = by_size([unwritable(made(0)), made(0), made(0)], duplicates="similar")
    assert curate.reasons(kept.lines) == {"not_writable": 1, "duplicate": 1}


@pytest.mark.parametrize(
    "text, tool, count, share, kept_text, kept_tool",
    [
        (9, 9, 8, 0.25, 2, 6),
        (9, 2, 8, 0.5, 2, 2),  # too few with calls: the others are cut, so that the share holds
        (1, 9, 8, 0.5, 1, 1),
        (0, 9, 8, 0.5, 0, 1),  # half of one, rounded, is none
        (0, 9, 3, 0.05, 0, 3),
        (60, 60, 5, 0.3, 2, 3),
        (9, 9, 8, 1.0, 8, 0),
        (9, 9, 4, 0.0, 4, 0),  # no share asked for: as they come
    ],
)
def test_the_share_of_text_only_holds(text, tool, count, share, kept_text, kept_tool):
    given = [made(i, 0) for i in range(text)] + [made(100 + i, 2) for i in range(tool)]
    kept, demos = by_size(given, count=count, text_only_share=share)
    calls = [d.num_calls for d in demos]
    assert (calls.count(0), calls.count(2)) == (kept_text, kept_tool)
    assert len(demos) == len(kept.transcripts)


def test_where_a_share_cannot_be_had_there_is_a_sentence_and_the_account():
    kept, demos = by_size([made(i, 2) for i in range(4)], count=8, text_only_share=1.0)
    assert demos == [] and kept.lines[-2].reasons == {"more_than_count": 4}
    assert "text_only_share=1.0 cannot be had of 0 demonstrations without and 4 with calls" in kept.error


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 14), st.floats(0.01, 1.0))
def test_as_many_are_kept_as_the_share_allows(text, tool, count, share):
    given = [made(i, 0) for i in range(text)] + [made(100 + i, 1) for i in range(tool)]
    kept, _ = by_size(given, count=count, text_only_share=share)
    found = sum(not t.num_calls for t in kept.transcripts)
    most = max(n for n in range(count + 1) if round(n * share) <= text and n - round(n * share) <= tool)
    assert (len(kept.transcripts), found) == (most, round(most * share))


KINDS = st.tuples(
    st.integers(0, 6), st.integers(0, 3), st.sampled_from(["exact", "wrong", ""]),
    st.booleans(), st.integers(0, 1), st.integers(1, 120),
)  # fmt: skip
RULES = st.fixed_dictionaries(
    {
        "count": st.integers(1, 20), "min_calls": st.integers(0, 2), "keep_errors": st.booleans(),
        "max_void": st.integers(0, 1), "duplicates": st.sampled_from(curate.DUPLICATES),
        "max_per_problem": st.integers(0, 2), "text_only_share": st.sampled_from([0.0, 0.3, 1.0]),
    }
)  # fmt: skip


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(st.lists(KINDS, max_size=25), RULES)
def test_the_table_adds_up_and_every_row_has_one_fate(kinds, keys):
    given = [
        made(i, n, verdict, failed=(0,), finished=finished, void=void, answer=str(size))
        for i, n, verdict, finished, void, size in kinds
    ]
    kept, demos = by_size(given, **keys)
    assert len(kept.transcripts) == len(demos) <= keys["count"]
    assert len(kept.transcripts) + len(kept.dropped) == len(given)
    before = len(given)
    for line in kept.lines:
        assert line.before == before and line.before - line.after == sum(line.reasons.values())
        before = line.after
    assert before == len(demos) and all(len(d.tokens) <= 100 for d in demos)
    order = [id(t) for t in given]
    assert [order.index(id(t)) for t in kept.transcripts] == sorted(
        order.index(id(t)) for t in kept.transcripts
    )
    for line in kept.lines:
        assert f"| {line.before} | {line.after} |" in curate.table(kept.lines)


@pytest.mark.parametrize(
    "keys, says",
    [
        ({"duplicates": "some"}, "demos.duplicates='some'"),
        ({"decontaminate": "all"}, "demos.decontaminate='all'"),
        ({"text_only_share": 1.5}, "demos.text_only_share=1.5"),
        ({"min_calls": 5, "max_calls": 4}, "demos.max_calls=4 is below demos.min_calls=5"),
        ({"ngram_words": 0}, "demos.ngram_words=0"),
    ],
)
def test_rules_that_cannot_be(keys, says):
    with pytest.raises(InputError, match=says):
        rules(**keys)


def problem(question, i=0):
    return types.Problem(f"q{i}", question, "1", "f")


LONG = ("A frog starts at the origin and jumps one unit north or east with equal chance; after "
        "ten jumps what is the chance that it stands on the line through the points given")  # fmt: skip


@pytest.mark.parametrize(
    "question, kinds",
    [
        (LONG, ("exact", "normalised", "ngram")),
        (LONG.upper().replace(" ", "  "), ("normalised", "ngram")),
        (f"Here is one. {LONG}? Answer in one word.", ("normalised", "ngram")),
        (LONG.replace("frog", "toad"), ("ngram",)),
        (LONG.replace("ten", "six").replace("frog", "toad"), ("ngram",)),
        ("A toad starts nowhere and sleeps; after ten jumps what is left of the day", ()),
    ],
)  # fmt: skip
def test_each_kind_of_copy_is_found_by_those_that_can(question, kinds):
    for kind in contamination.KINDS:
        found = contamination.find([problem(question)], [problem(LONG, 1)], kind, 8)
        assert (question in found) == (kind in kinds), kind
    if kinds:
        assert contamination.find([problem(question)], [problem(LONG, 1)], "ngram", 8) == {
            question: f"{kinds[0]} q1"
        }


def test_held_out_problems_of_two_files_may_have_one_id():
    other = problem("Seven bakers share a table and each bakes two loaves more than the one at the left", 1)
    for held in ([problem(LONG, 1), other], [other, problem(LONG, 1)]):
        for asked in (LONG.replace("frog", "toad"), other.question.replace("Seven", "Nine")):
            assert contamination.find([problem(asked)], held, "ngram", 8) == {asked: "ngram q1"}


def test_words_that_several_held_out_questions_share_say_nothing():
    end = " can be written as m over n where m and n are relatively prime positive integers find m+n"
    held = [problem(f"The area of the {shape}{end}", i) for i, shape in enumerate(("hexagon", "kite"))]
    other = problem(f"The number of ways to tile a floor{end}", 9)
    assert contamination.find([other], held, "ngram", 8) == {}


def test_the_copies_in_real_files_are_found():
    # Three MATH-500 problems stand in the DAPO set; n-grams find three more, rewritten a little.
    dapo = problems.load(shared_data.path("problems/dapo_filtered.parquet"))
    math = problems.load(shared_data.path("problems/math500.json"))
    known = {"501", "850", "440"}
    near = [p for p in dapo if p.answer in known] + dapo[:300]
    found = contamination.find(near, math, "normalised", 13)
    assert {p.answer for p in near if p.question in found} == known and len(found) == 3
    assert set(found) <= set(contamination.find(near, math, "ngram", 13))
    kept = by_content([made(i, question=p.question) for i, p in enumerate(near)], held=math)
    assert curate.reasons(kept.lines) == {"held_out": 3 + sum(
        near.count(p) - 1 for p in dict.fromkeys(near) if p.question in found)}  # fmt: skip
