"""The demos stage as a whole: every source in a workdir, what it leaves, and what it refuses."""

import json

import pytest

from aster_jax import config, config_check, mesh, settings, types, workdir
from aster_jax.data import chat
from aster_jax.demos import render, sources, tables, transcript
from aster_jax.demos import run as demos
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import GaveUp, InputError
from tests.demos import made_server


def with_keys(**changed):
    c = config.default()
    c.name, c.model.show_tool, c.model.vocab_size, c.demos.count = "t", False, 600, 12
    for key, value in changed.items():
        *section, name = key.split("__")
        found = c
        for part in section:
            found = found[part]
        found[name] = value
    config_check.validate(c)
    return c


def run_of(path, **changed):
    c = with_keys(**changed)
    return workdir.open_run(c, path, mesh.build(**c.mesh))


def outputs(run):
    """(report, dropped rows, demonstrations, transcripts) of a finished stage."""
    where = run.path / "demos"
    dropped = [json.loads(line) for line in (where / "dropped.jsonl").read_text().splitlines()]
    report = json.loads((where / "curation.json").read_text())
    made = transcript.load(where / "transcripts.jsonl")
    shown = render.load_demos(where / "demos.jsonl")
    assert report["kept"] == len(made) == len(shown) == run.summary("demos")["demos"]
    assert len(dropped) == sum(report["dropped"].values())
    return report, dropped, shown, made


def messages_file(path, count, answer=lambda i: i, question="What is {} in digits?", calls=3):
    made = []
    for i in range(count):
        asked = question.format(i)
        turns = [{"role": "user", "content": asked}]
        for n in range(calls):
            turns += [chat.call_message("", f"x = {i}; {n}"), {"role": "tool", "content": str(n)}]
        turns.append({"role": "assistant", "content": f"It is \\boxed{{{answer(i)}}}."})
        made.append(Transcript(types.Problem(f"m{i}", asked, str(i), "m"), tuple(turns), ("ok",) * calls))
    tables.save(path, made, "messages")
    return str(path)


def test_a_file_is_judged_filtered_and_reported(tmp_path):
    source = messages_file(tmp_path / "a.jsonl", 20, answer=lambda i: i if i % 4 else -1)
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"question": "what is  6 in digits", "answer": "6"}) + "\n")
    with open(source, "a") as file:
        file.write(json.dumps({"messages": []}) + "\n")
    run = run_of(tmp_path / "w", demos__source=source, problems__heldout=str(held))
    demos.run(run)
    report, dropped, _, made = outputs(run)
    assert report["dropped"] == {
        "wrong": 5, "held_out": 1, "more_than_count": 2, "unusable_row": 1,
    }  # fmt: skip
    assert [t.origin for t in made[:2]] == ["a.jsonl row 2", "a.jsonl row 3"]
    assert made[0].verdict == "exact" and made[0].problem.id == "m1"
    reasons = {d["origin"]: d["reason"] for d in dropped}
    assert reasons["a.jsonl row 7"] == "held_out: normalised held/" + reasons["a.jsonl row 7"][-12:]
    assert "start with a user" in reasons["a.jsonl row 21"]
    table = (run.path / "demos" / "curation.md").read_text()
    assert "| usable rows | bad_rows | 21 | 20 | unusable_row: 1 |" in table
    assert "| right answer | right_only | 20 | 15 | wrong: 5 |" in table
    assert report["rules"][0]["before"] == 21 == len(made) + len(dropped)
    with pytest.raises(InputError, match="row 21 is no usable demonstration"):
        demos.run(run_of(tmp_path / "r", demos__source=source, demos__bad_rows="refuse"))


def test_exactly_so_many_or_an_error_that_says_which_rule(tmp_path):
    source = messages_file(tmp_path / "a.parquet", 5)
    run = run_of(tmp_path / "w", demos__source=source, demos__exact_count=True)
    with pytest.raises(InputError, match="leave 5 demonstrations.*asks for demos.count=12"):
        demos.run(run)
    assert not run.is_finished("demos") and (run.path / "demos" / "curation.md").exists()
    run = run_of(tmp_path / "x", demos__source=source, demos__min_calls=4)
    with pytest.raises(InputError, match="left 0 of 5 .*too_few_calls.* demos.min_calls or"):
        demos.run(run)
    assert len((run.path / "demos" / "dropped.jsonl").read_text().splitlines()) == 5
    wrong = messages_file(tmp_path / "b.jsonl", 3, answer=lambda i: -1)
    run = run_of(tmp_path / "z", demos__source=wrong)
    with pytest.raises(InputError, match="left 0 of 3 .*'right answer', which demos.right_only"):
        demos.run(run)
    run = run_of(tmp_path / "y", demos__source=source, demos__max_tokens=3)
    with pytest.raises(InputError, match="none of 5 demonstrations fits demos.max_tokens=3"):
        demos.run(run)
    assert "too_long: 5" in (run.path / "demos" / "curation.md").read_text()


def test_every_heldout_file_counts(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text(json.dumps({"question": "What is 2 plus 2?", "answer": "4"}) + "\n")
    two.write_text(json.dumps({"question": "How many primes are below 10?", "answer": "4"}) + "\n")
    c = config.default()
    c.problems.heldout = str(one)
    c.eval.also = ({"name": "two", "heldout": str(two)},)
    assert [p.question for p in demos._held_out(c)] == [
        "What is 2 plus 2?", "How many primes are below 10?",
    ]  # fmt: skip
    c.problems.heldout, c.eval.also = "generated", ()
    assert demos._held_out(c) == []


def taught(tmp_path, server, count=6, **more):
    """The keys of a run that asks the server `count` problems."""
    problems = tmp_path / "train.jsonl"
    asked = made_server.problems(count)
    rows = [{"id": p.id, "question": p.question, "answer": p.answer} for p in asked]
    problems.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return {
        "demos__source": "endpoint", "demos__min_calls": 2, "problems__source": str(problems),
        "demos__teacher__url": server.url, "demos__teacher__model": "made",
        "tools__preload": (), "demos__teacher__turn_tokens": 50,
        "demos__teacher__pause_s": 0.01, "demos__teacher__journal": str(tmp_path / "journal.jsonl"),
    } | more  # fmt: skip


def test_a_server_is_a_source(tmp_path):
    ways = [None, "error", None, "html"]
    with made_server.Server(lambda n: ways[n] if n < len(ways) else None) as server:
        keys = taught(
            tmp_path, server, demos__teacher__samples=2, demos__teacher__at_once=1,
            demos__teacher__price_prompt=1.0,
        )  # fmt: skip
        run = run_of(tmp_path / "w", **keys)
        demos.run(run)
        report, dropped, _, made = outputs(run)
        assert len(made) == 11 and {t.verdict for t in made} == {"exact"}
        assert report["dropped"] == {"unfinished": 1}
        assert report["teacher"]["reasons"] == {"answered": 11, "garbage": 1}
        assert report["teacher"]["asked"] == 12
        paid = len(server.paid)
        assert report["teacher"]["tokens_per_kept"] * 11 == pytest.approx(
            report["teacher"]["prompt_tokens"] + report["teacher"]["completion_tokens"]
        )
        # Another run with the same journal and other rules pays nothing; other keys are asked anew.
        demos.run(run_of(tmp_path / "x", **keys, demos__max_per_problem=1))
        assert len(server.paid) == paid
        demos.run(run_of(tmp_path / "y", **keys | {"demos__teacher__temperature": 0.5}))
        assert len(server.paid) == paid + 36
        # Where the server is, and how it is asked, may change in a run; what it is asked may not.
        run_of(tmp_path / "w", **keys | {"demos__teacher__url": "http://a/v1"})
        with pytest.raises(InputError, match="demos.teacher.model"):
            run_of(tmp_path / "w", **keys | {"demos__teacher__model": "other"})


def test_what_stands_still_is_gone_on_with(tmp_path):
    with made_server.Server(lambda n: "error") as server:
        keys = taught(tmp_path, server, 5, demos__teacher__retries=0, demos__count=5)
        run = run_of(tmp_path / "w", **keys)
        # Fewer conversations than are under way at once: it is the server all the same.
        with pytest.raises(GaveUp, match=f"5 of 5 .* at {server.url} stand still.*status 500"):
            demos.run(run)
        server.mischief = lambda n: "error" if n >= 10 else None  # it dies after five answers
        with pytest.raises(GaveUp, match="the same command goes on with them"):
            demos.run(run_of(tmp_path / "w", **keys))
        server.mischief = lambda n: "refused"
        with pytest.raises(GaveUp, match="5 of 5 .* stand still: status 400"):
            demos.run(run_of(tmp_path / "v", **keys | {"demos__teacher__model": "other"}))
        server.mischief = lambda n: None
        run = run_of(tmp_path / "w", **keys)
        assert not run.is_finished("demos")
        demos.run(run)
    assert outputs(run)[0]["teacher"]["reasons"] == {"answered": 5} and len(server.paid) == 15


def test_a_cap_is_no_end_unless_there_is_enough(tmp_path):
    with made_server.Server() as server:
        keys = taught(tmp_path, server, 5, demos__teacher__at_once=1, demos__count=5)
        capped = keys | {"demos__teacher__cap_tokens": 1600}
        with pytest.raises(GaveUp, match="3 of 5 .* stand still, .*count=5: demos.teacher.cap_tokens=1600"):
            demos.run(run_of(tmp_path / "w", **capped))
        few = capped | {"demos__count": 1, "demos__teacher__problems": 5}
        run = run_of(tmp_path / "few", **few)
        demos.run(run)
        assert outputs(run)[0]["teacher"]["reasons"]["cap"] > 2
        run = run_of(tmp_path / "w", **keys)
        demos.run(run)
    assert outputs(run)[0]["teacher"]["reasons"] == {"answered": 5} and len(server.paid) == 15


def test_a_server_without_a_name_for_its_model_is_known_by_its_address():
    c = with_keys(demos__teacher__url="http://a/v1")
    how, budgets = settings.teacher_how(c), settings.teacher_budgets(c)
    first = sources._digest(c, how, budgets)
    c.demos.teacher.url = "http://b/v1"
    assert sources._digest(c, how, budgets) != first
    c.demos.teacher.model = "made"
    how = settings.teacher_how(c)
    second = sources._digest(c, how, budgets)
    c.demos.teacher.url = "http://a/v1"
    assert sources._digest(c, how, budgets) == second


@pytest.mark.parametrize(
    "key, value, says",
    [
        ("demos__teacher__api", "talk", "demos.teacher.api='talk'"),
        ("demos__teacher__extra", "[1]", "not a JSON object"),
        ("demos__teacher__extra", "{", "is not JSON"),
        ("demos__teacher__extra", '{"top_k": NaN}', "is not JSON"),
        ("demos__teacher__extra", '{"stream": true}', "sets stream, which"),
        ("demos__teacher__extra", '{"n": 4, "messages": []}', "sets messages, n, which"),
        ("demos__teacher__style", "xx", "demos.teacher.style='xx'"),
        ("demos__teacher__cap_money", 5.0, "demos.teacher.cap_money=5.0 caps nothing"),
        ("demos__teacher__timeout_s", 0.0, "demos.teacher.timeout_s=0.0 must be"),
        ("demos__teacher__samples", 0, "demos.teacher.samples=0"),
        ("demos__teacher__retries", -1, "demos.teacher.retries=-1 must not be negative"),
        ("demos__teacher__url", "here", "demos.teacher.url"),
        ("demos__bad_rows", "drop", "demos.bad_rows='drop'"),
        ("demos__max_calls", 2, "demos.max_calls=2 is below"),
    ],
)
def test_keys_are_checked_before_anything_runs(key, value, says):
    with pytest.raises(InputError, match=says):
        with_keys(**{key: value})


def test_results_are_cut_for_a_teacher_as_for_the_policy():
    c = with_keys(rollout__tool_result_tokens=40)
    cut = sources._cut(c)
    assert cut("short") == "short"
    shown = cut("x" * 100)
    assert len(shown) <= 40 and "left out" in shown and shown.startswith("x") and shown.endswith("x")
