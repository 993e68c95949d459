"""The expert in the real tool: right answers, dense calls, real recoveries, and their rendering."""

import dataclasses
import json

import pytest

from aster_jax import errors, tools
from aster_jax.data import chat, tokenizer
from aster_jax.demos import collect, families, render, scripts, teacher, transcript, walks
from aster_jax.reward import verify

ALL = tuple(f for f in families.FAMILIES if f not in walks.SIZES)  # teacher_test.py has those


@pytest.fixture(scope="module")
def problems():
    return families.problems(ALL, "demos", 10, 0, 2)


@pytest.fixture(scope="module")
def executor():
    with tools.Executor(tools.ToolConfig(preload=())) as made:
        yield made


@pytest.fixture(scope="module")
def dense(problems, executor):
    return collect.collect(problems, "dense", executor, slip_share=0.5, seed=1)


@pytest.fixture(scope="module")
def words(dense, tmp_path_factory):
    texts = render.vocabulary_texts(dense, "chatml", None)
    return tokenizer.train_sentencepiece(texts, 768, chat.CONTROL, tmp_path_factory.mktemp("t"))


def verdicts_of(transcripts):
    with verify.Verifier(verify.VerifyConfig(symbolic=False)) as verifier:
        scored = verifier.score([(t.final_text, t.problem.answer) for t in transcripts])
    return [verdict for _, verdict in scored]


@pytest.mark.parametrize("style, calls", [("dense", 5), ("sparse", 1), ("direct", 0)])
def test_every_style_is_right(problems, executor, style, calls):
    made = collect.collect(problems, style, executor)
    assert verdicts_of(made) == ["exact"] * len(problems)
    assert all(t.statuses == ("ok",) * calls for t in made)
    assert [t.problem for t in made] == problems


def test_every_possible_slip_fails_in_the_tool_and_is_repaired(problems, executor):
    for problem in problems[: len(ALL)]:
        session = executor.open(seed=0)
        for step in scripts.dense(problem.family, families.numbers(problem)):
            if step.slip:
                assert executor.run(session, step.slip).status == "error", step
            assert executor.run(session, step.code).status == "ok", step
        executor.close(session)


def test_slips_are_in_the_transcript_with_the_tools_own_words(dense):
    slipped = [t for t in dense if "error" in t.statuses]
    assert 0 < len(slipped) < len(dense)
    for transcript in slipped:
        at = transcript.statuses.index("error")
        results = [m["content"] for m in transcript.messages if m["role"] == "tool"]
        spoken = [m for m in transcript.messages if m["role"] == "assistant"]
        assert "Error" in results[at]
        assert spoken[at + 1]["content"] == teacher.REPAIR
        assert transcript.statuses.count("error") == 1 and len(transcript.statuses) == 6


def test_checks_hold(dense):
    for transcript in dense:
        assert any(m["role"] == "tool" and m["content"] == "True" for m in transcript.messages)


def test_the_same_seed_gives_the_same_transcripts(problems, executor, dense):
    again = collect.collect(problems, "dense", executor, slip_share=0.5, seed=1, max_open=2)
    assert again == dense


def test_answer_comes_from_the_tool_and_not_from_the_problem(problems, executor):
    lied_to = dataclasses.replace(problems[0], answer="-1")
    made = collect.collect([lied_to], "dense", executor)
    assert verdicts_of(made) == ["wrong"]
    assert f"\\boxed{{{problems[0].answer}}}" in made[0].final_text


def test_a_tool_that_is_gone_leaves_an_unfinished_transcript(problems):
    gone = tools.Executor(tools.ToolConfig(preload=()))
    session = gone.open()
    gone.close()
    broken = gone.run(session, "1")
    assert broken.is_infra
    how = teacher.plan(problems[0], "dense", 0.0, 0)
    failed = [dataclasses.replace(broken, status="error")] * teacher.MAX_FAILURES
    assert teacher.next_message(problems[0], how, failed) is None


def test_ids_and_mask_are_those_of_a_rollout(dense, words):
    # Built from the pieces that a rollout appends: prompt, sampled turn, tool result.
    for transcript in dense:
        ids = chat.prompt_ids(transcript.problem.question, None, words, "chatml")
        mask = [0] * len(ids)
        for message in transcript.messages[1:]:
            if message["role"] == "tool":
                new = chat.tool_ids(chat.cut(message["content"], words, 64), words, "chatml")
                mask += [0] * len(new)
            else:
                new = chat.assistant_ids(message, words, "chatml")
                mask += [1] * len(new)
            ids = [*ids, *new]
        demo = render.render(transcript, words, "chatml", None, 64)
        assert demo.tokens[: len(ids)] == tuple(ids)
        assert demo.loss_mask[: len(ids)] == tuple(mask)
        assert not any(demo.loss_mask[len(ids) :])


def test_statistics_by_hand(dense, words):
    demos = [render.render(t, words, "chatml", None, 64) for t in dense]
    numbers = render.statistics(dense, demos)
    slipped = sum("error" in t.statuses for t in dense)
    assert numbers["calls_histogram"] == {"5": len(dense) - slipped, "6": slipped}
    assert numbers["calls_mean"] == pytest.approx(5 + slipped / len(dense))
    assert numbers["tokens_max"] == max(len(d.tokens) for d in demos)


def test_files_give_back_what_was_written(dense, words, tmp_path):
    transcript.save(tmp_path / "t.jsonl", dense)
    assert transcript.load(tmp_path / "t.jsonl") == dense
    demos = [render.render(t, words, "chatml", None, 64) for t in dense]
    render.save_demos(tmp_path / "d.jsonl", demos)
    assert render.load_demos(tmp_path / "d.jsonl") == demos
    first = json.loads((tmp_path / "t.jsonl").read_text().split("\n")[0])
    assert first["messages"][0] == {"role": "user", "content": dense[0].problem.question}
    with pytest.raises(ValueError, match="run the demos stage"):
        render.load_demos(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda text: text[:-10], "row 4 is not JSON"),
        (lambda text: text.replace('"tokens"', '"token"', 1), "row 1 is no demonstration .*tokens"),
        (lambda text: text.replace("[", "[1, ", 1), "row 1 is no demonstration .*a mask of"),
    ],
)
def test_damaged_demonstrations_are_named_by_file_and_row(dense, words, tmp_path, damage, complaint):
    path = tmp_path / "demos.jsonl"
    render.save_demos(path, [render.render(t, words, "chatml", None, 64) for t in dense[:4]])
    path.write_text(damage(path.read_text()))
    with pytest.raises(errors.InputError, match=f"demos.jsonl {complaint}"):
        render.load_demos(path)


def test_thoughts_move_into_the_think_block(problems, executor):
    made = collect.collect(problems[:1], "dense", executor, think=True)[0]
    call = made.messages[1]
    assert call["reasoning_content"] == "Read the numbers." and call["content"] == ""
    assert made.messages[-1]["reasoning_content"] and "boxed" in made.final_text


def test_plans_are_deterministic_and_checked(problems):
    slips = [teacher.plan(p, "dense", 0.5, 1).slip_at for p in problems]
    assert slips == [teacher.plan(p, "dense", 0.5, 1).slip_at for p in problems]
    assert teacher.plan(problems[0], "sparse", 1.0, 0).slip_at is None
    with pytest.raises(ValueError, match="demos.style"):
        teacher.plan(problems[0], "chatty", 0.0, 0)
    with pytest.raises(ValueError, match="slip_share"):
        teacher.plan(problems[0], "dense", 1.5, 0)
