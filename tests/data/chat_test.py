"""Chat markup: Qwen's own renders, the prefix property, and what counts as a call."""

import json
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from aster_jax.data import chat, tokenizer
from tests import shared_data
from tests.data import tokenizer_test

RUN = hypothesis.settings(derandomize=True, max_examples=60, deadline=None, database=None)
TEXT = tokenizer_test.TEXT
learned = tokenizer_test.learned

# Qwen's template drops the thoughts of earlier turns (and an empty think block of a turn that
# is no longer last). Here every turn stays as it was when it was newest.
THOUGHTS_KEPT = {"three_rounds", "multi_turn_thinking_stripped", "multi_turn_with_tools"}
# Control names inside messages stay ordinary text: same characters, other ids.
NOT_FORGED = {"user_text_that_looks_like_a_tool_response", "control_strings_in_user_text"}
# An empty thought: the prompt's "<think>\n" is given before the model writes "\n</think>", so
# the two newlines cannot be the single id that joint tokenisation makes of them.
SPLIT_NEWLINES = {("no_reasoning_call_last", "qwen3_thinking_2507")}


def renders():
    found = json.loads(shared_data.path("qwen3/rendered_conversations.json").read_text())
    names = {"B": "qwen3", "thinking_2507": "qwen3_thinking_2507"}
    for talk in found["conversations"]:
        for expected in talk["renders"]:
            if expected["enable_thinking"] is not False:  # thinking is never switched off
                yield talk, names[expected["template"]], expected


def render(talk, style, expected):
    words = tokenizer_test.qwen3()
    opening = expected["add_generation_prompt"]
    ids, mask = chat.render(talk["messages"], talk["tools"], words, style, opening)
    assert len(ids) == len(mask)
    return words, ids


def test_qwen3_renders_are_equal_in_text_and_ids():
    same_text = same_ids = total = 0
    for talk, style, expected in renders():
        words, ids = render(talk, style, expected)
        kept = talk["name"] in THOUGHTS_KEPT
        other_ids = talk["name"] in NOT_FORGED or (talk["name"], style) in SPLIT_NEWLINES
        assert (words.decode(ids) == expected["text"]) != kept, talk["name"]
        assert (ids == expected["ids"]) != (kept or other_ids), talk["name"]
        same_text += not kept
        same_ids += not (kept or other_ids)
        total += 1
    assert (total, same_text, same_ids) == (64, 52, 42)


def test_kept_thoughts_are_what_the_template_wrote_when_the_turn_was_newest():
    for talk, style, expected in renders():
        if talk["name"] not in THOUGHTS_KEPT or expected["add_generation_prompt"]:
            continue
        text = chat.render_text(talk["messages"], talk["tools"], style)
        last = max(i for i, m in enumerate(talk["messages"]) if m["role"] == "assistant")
        for i, message in enumerate(talk["messages"][: last + 1]):
            if message["role"] == "assistant":
                alone = talk["messages"][: i + 1]
                assert text.startswith(chat.render_text(alone, talk["tools"], style))
        # The newest turn itself is exactly Qwen's.
        tail = expected["text"][expected["text"].rindex("<|im_start|>assistant") :]
        assert text.endswith(tail)


def test_mask_covers_the_sampled_tokens_only():
    words = tokenizer_test.qwen3()
    talk = [
        {"role": "user", "content": "2+2?"},
        chat.call_message("", "print(4)", reasoning="add"),
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "4", "reasoning_content": "so"},
    ]
    for style, opener in (("qwen3", "<think>\n"), ("qwen3_thinking_2507", "")):
        ids, mask = chat.render(talk, None, words, style)
        sampled = words.decode([i for i, m in zip(ids, mask, strict=True) if m])
        call = '{"name": "code_interpreter", "arguments": {"code": "print(4)"}}'
        assert sampled == (
            f"{opener}add\n</think>\n\n<tool_call>\n{call}\n</tool_call><|im_end|>"
            f"{opener}so\n</think>\n\n4<|im_end|>"
        )


@pytest.fixture(scope="session")
def spelled(tmp_path_factory):
    """A vocabulary without tags for calls and thoughts: they are ordinary text in it."""
    where = tmp_path_factory.mktemp("spelled")
    return tokenizer.train_sentencepiece(["plain text"], 300, ["<|im_start|>", "<|im_end|>"], where)


def every_case(*vocabularies):
    for style in chat.STYLES:
        for words in (tokenizer_test.qwen3(), *vocabularies):
            yield style, words


@RUN
@hypothesis.given(
    question=TEXT,
    rounds=st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), max_size=3),
    answer=TEXT,
    tools=st.sampled_from([None, [chat.TOOL]]),
)
def test_turn_by_turn_equals_all_at_once(learned, spelled, question, rounds, answer, tools):
    for style, words in every_case(learned[0], spelled):
        talk = [{"role": "user", "content": question}]
        ids = chat.prompt_ids(question, tools, words, style)
        for thought, text, code, result in rounds:
            call = chat.call_message(text, code, reasoning=thought)
            ids = ids + chat.assistant_ids(call, words, style)
            ids += chat.tool_ids(result, words, style)
            talk += [call, {"role": "tool", "content": result}]
        assert ids == chat.render(talk, tools, words, style, True)[0]
        final = {"role": "assistant", "content": answer, "reasoning_content": "hm"}
        ids += chat.assistant_ids(final, words, style)
        separator = words.encode("\n")
        once, mask = chat.render([*talk, final], tools, words, style)
        assert ids + separator == once
        assert sum(mask) == sum(
            len(chat.assistant_ids(m, words, style))
            for m in [*talk, final]
            if m["role"] == "assistant"
        )


@RUN
@hypothesis.given(TEXT)
def test_given_text_forges_no_turn(learned, spelled, text):
    for style, words in every_case(learned[0], spelled):
        control = set(words.control.values())
        for make in (
            lambda t: chat.tool_ids(t, words, style),
            lambda t: chat.prompt_ids(t, None, words, style),
        ):
            forged = [i for i in make(text) if i in control]
            assert forged == [i for i in make("x") if i in control]


@RUN
@hypothesis.given(thought=TEXT, text=TEXT, code=TEXT)
def test_a_rendered_call_parses_to_its_code(learned, thought, text, code):
    for style, words in every_case(learned[0]):
        message = chat.call_message(text, code, reasoning=thought)
        if "</think>" in text or "<tool_call>" in text or "</tool_call>" in text:
            continue  # the assistant's own text is free to be odd; covered below
        turn = chat.parse_turn(chat.assistant_ids(message, words, style), words, style)
        assert turn.kind == "call", (turn, style)
        if words is learned[0]:  # Qwen's vocabulary normalises to NFC
            assert turn.code == code


GOOD = '<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "print(1)"}}\n</tool_call>'
BAD = {
    "<tool_call>\nprint(1)\n</tool_call>": "not valid JSON",
    "<tool_call>\n" + "[" * 100_000 + "\n</tool_call>": "not valid JSON",
    '<tool_call>{"name": "code_interpreter", "name": "x", "arguments": {}}</tool_call>': "JSON",
    '<tool_call>[{"name": "code_interpreter"}]</tool_call>': "not an object",
    '<tool_call>{"name": "code_interpreter"}</tool_call>': '"arguments"',
    '<tool_call>{"name": "shell", "arguments": {"code": "ls"}}</tool_call>': "unknown function",
    '<tool_call>{"name": "code_interpreter", "arguments": {}}</tool_call>': "missing",
    '<tool_call>{"name": "code_interpreter", "arguments": "print(1)"}</tool_call>': "missing",
    '<tool_call>{"name": "code_interpreter", "arguments": {"code": "1", "timeout": 9}}</tool_call>':
        "other than",
    '<tool_call>{"name": "code_interpreter", "arguments": {"code": 1}}</tool_call>': "a string",
    '<tool_call>{"name": "code_interpreter", "arguments": {"code": "\\ud800"}}</tool_call>':
        "Unicode",
    GOOD + "\n" + GOOD: "only one",
    GOOD + " done": "text after",
    GOOD.removesuffix("</tool_call>"): "not closed",
    "so </tool_call>": "without",
}  # fmt: skip


def sampled(text, words, ends=True):
    """Ids as a policy would sample them: tags as control ids where the vocabulary has them."""
    tags = re.compile("(" + "|".join(map(re.escape, words.control)) + ")")
    parts = [p for p in tags.split(text + ("<|im_end|>" if ends else "")) if p]
    return [
        i for p in parts for i in ([words.control[p]] if p in words.control else words.encode(p))
    ]


@pytest.mark.parametrize("kind", ["qwen3", "learned", "spelled"])
def test_malformed_calls_are_values_with_reasons(learned, spelled, kind):
    words = {"qwen3": tokenizer_test.qwen3(), "learned": learned[0], "spelled": spelled}[kind]
    for text, reason in BAD.items():
        turn = chat.parse_turn(sampled("I try. " + text, words), words, "chatml")
        assert turn.kind == "malformed" and reason in turn.reason, (text[:80], turn.reason)
        assert turn.text.startswith("I try.")


@pytest.mark.parametrize("kind", ["qwen3", "learned", "spelled"])
def test_the_token_that_opens_a_call_is_found(learned, spelled, kind):
    words = {"qwen3": tokenizer_test.qwen3(), "learned": learned[0], "spelled": spelled}[kind]
    call = '<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "print(1)"}}\n</tool_call>'
    for before in ("", "I try. ", "<think>\nnot <tool_call> yet\n</think>\n\nso "):
        ids = sampled(before + call, words)
        at = chat.call_opening(ids, words)
        told = words.decode(ids[:at])
        assert told.count("<tool_call>") == before.count("<tool_call>")
        # The next token is the tag, or begins it.
        assert words.decode(ids[: at + 1])[len(told) :].lstrip().startswith("<")
        assert told.strip() == before.strip()
    assert chat.call_opening(sampled("It is 3.", words), words) is None
    assert chat.call_opening([], words) is None


def parse(text, style="qwen3", ends=True):
    words = tokenizer_test.qwen3()
    return chat.parse_turn(sampled(text, words, ends), words, style)


@pytest.mark.parametrize("ends", [True, False])
def test_a_call_may_follow_text_and_thought(ends):
    turn = parse(f"<think>\n<tool_call>no</tool_call>\n</think>\n\nLet me.\n{GOOD}", ends=ends)
    thought = "<tool_call>no</tool_call>"
    assert turn == chat.Turn("call", "Let me.", code="print(1)", thought=thought)


def test_thinking_prompt_puts_the_turn_inside_a_think_block():
    assert parse(f"{GOOD}\n</think>\n\nIt is 4.", "qwen3_thinking_2507").text == "It is 4."
    unclosed = parse(r"it is \boxed{4}", "qwen3_thinking_2507")
    assert (unclosed.kind, unclosed.text) == ("answer", "") and "never closed" in unclosed.reason


def test_answer_is_what_follows_the_last_closed_think_block():
    assert parse("<think>a</think>b<think>c</think>\n\nd").text == "d"
    assert parse("<think>\\boxed{1}").text == ""


def test_a_think_tag_that_is_only_spoken_of_hides_nothing():
    said = "The tag <think> opens a thought. It is \\boxed{4}."
    assert parse(said).text == said and parse(said).reason == ""
    assert parse(f"<think>a</think>{said}").text == said
    assert parse(f"b\n</think>\n\n{said}", "qwen3_thinking_2507").text == said
    # Before any text it opens a block, and a block that closes is none of the answer.
    assert parse(f"\n<think>{said}").text == ""
    assert parse(f"{said}</think>5").text == "5"


@pytest.mark.parametrize("kind", ["qwen3", "learned", "spelled"])
@pytest.mark.parametrize("tag", ["</tool_call>", "<tool_call>", "<think>", "</think>"])
def test_tags_inside_the_code_of_a_call_are_code(learned, spelled, kind, tag):
    """As control ids, which a model may well sample there."""
    words = {"qwen3": tokenizer_test.qwen3(), "learned": learned[0], "spelled": spelled}[kind]
    for code in (f"print('{tag}')", f"{tag}{tag}", f"a = '{tag} <tool_call>x</tool_call>'"):
        body = json.dumps({"name": "code_interpreter", "arguments": {"code": code}})
        text = f"Let me. <tool_call>\n{body}\n</tool_call>"
        turn = chat.parse_turn(sampled(text, words), words, "chatml")
        assert turn == chat.Turn("call", "Let me.", code=code)
        assert chat.parse_turn(sampled(f"{text} done", words), words, "chatml").kind == "malformed"


def test_an_opener_is_part_of_the_answer_in_every_style(learned, spelled):
    for style, words in every_case(learned[0], spelled):
        opener = chat.opener_ids("It is \\boxed{", words, style)
        turn = chat.parse_turn(opener + words.encode("4}."), words, style)
        assert (turn.kind, turn.text) == ("answer", "It is \\boxed{4}.")


def test_a_turn_may_end_with_the_end_of_a_text(learned):
    words = tokenizer_test.qwen3()
    turn_end, text_end = (words.control[n] for n in ("<|im_end|>", "<|endoftext|>"))
    assert chat.stop_ids(words, "chatml") == (turn_end, text_end)
    body = words.encode("It is 4.")
    for end in ([turn_end], [text_end], []):
        turn = chat.parse_turn(body + end, words, "chatml")
        assert (turn.kind, turn.text) == ("answer", "It is 4.")
    # A vocabulary learned for the markup has no such token; spelled out it is ordinary text.
    assert len(chat.stop_ids(learned[0], "chatml")) == 1
    spelled_out = chat.prompt_ids("a<|endoftext|>b", None, words, "chatml")
    assert text_end not in spelled_out


def test_style_is_recognised_from_a_checkpoints_template():
    def style(name):
        return chat.detect_style(shared_data.path(f"qwen3/{name}").read_text())

    assert style("chat_template_A.jinja") == style("chat_template_B.jinja") == "qwen3"
    assert style("chat_template_thinking_2507.jinja") == "qwen3_thinking_2507"
    assert chat.detect_style("{{ '<|im_start|>' }}") == chat.detect_style(None) == "chatml"


def test_vocabulary_texts_are_cut_where_encoding_cuts():
    talk = [{"role": "user", "content": "hi"}, chat.call_message("", "1")]
    assert chat.text_runs(talk, None, "chatml") == [
        "user\nhi", "\n", "assistant\n",
        '\n{"name": "code_interpreter", "arguments": {"code": "1"}}\n', "\n",
    ]  # fmt: skip


def test_errors_name_what_is_wrong(learned):
    with pytest.raises(ValueError, match="choose one of"):
        chat.stop_ids(learned[0], "alpaca")
    with pytest.raises(ValueError, match="role 'critic'"):
        chat.render([{"role": "critic", "content": ""}], None, learned[0], "chatml")
    mistral = tokenizer.load(shared_data.path("sentencepiece/mistral_v1.model"))
    with pytest.raises(ValueError, match="no control token <.im_start.>"):
        chat.prompt_ids("hi", None, mistral, "chatml")


@pytest.mark.parametrize("style", chat.STYLES)
def test_text_for_and_from_a_server_is_that_of_the_ids(style):
    words = tokenizer_test.qwen3()
    call = chat.call_message("Let me.", "print(1)", "Hm.")
    turn = chat.parse_turn(chat.assistant_ids(call, words, style), words, style)
    text = words.decode(chat.assistant_ids(call, words, style))
    assert chat.parse_text(text, style) == turn
    assert (turn.kind, turn.text, turn.code, turn.thought) == ("call", "Let me.", "print(1)", "Hm.")
    asked = [{"role": "user", "content": "What is 2+2?"}]
    ids = chat.prompt_ids("What is 2+2?", [chat.TOOL], words, style)
    assert chat.raw_prompt(asked, [chat.TOOL], style) == words.decode(ids)
    after = "<|im_end|>" + words.decode(chat.tool_ids("1", words, style))
    assert chat.raw_result("1", style) == after


@hypothesis.given(st.lists(st.sampled_from([*chat.CONTROL, "<", "|im_end|>", "a", "\n"])).map("".join))
def test_no_text_forges_a_turn_for_a_server_that_reads_tags(said):
    clean = [{"role": "user", "content": "a"}]
    hostile = [{"role": "user", "content": said}]
    for tag in chat.CONTROL:
        shown = chat.raw_prompt(hostile, None, "qwen3"), chat.raw_prompt(clean, None, "qwen3")
        assert shown[0].count(tag) == shown[1].count(tag)
        assert chat.raw_result(said, "qwen3").count(tag) == chat.raw_result("a", "qwen3").count(tag)
