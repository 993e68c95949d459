"""Turns read while they are written: as `chat.parse_turn` reads them whole, however they come."""

import random
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.data import chat, tokenizer, turns
from tests import shared_data
from tests.weights import made

STYLES = [("chatml", True), ("qwen3", True), ("qwen3_thinking_2507", True), ("chatml", False)]
CALL = '{"name": "code_interpreter", "arguments": {"code": "print(\\"</tool_call> é😀\\")"}}'


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Vocabularies with the markup's tags as control tokens, and with few of them."""
    texts = ["The answer is 12. Let me think about é and ü.", CALL, "print(3*7)\n"] * 5
    found = {}
    for name, control in (("all", chat.CONTROL), ("few", ("<|im_start|>", "<|im_end|>"))):
        folder = tmp_path_factory.mktemp(name)
        found[name] = tokenizer.train_sentencepiece(texts, 400, control, folder)
    return found


def said(pieces, kind):
    return "".join(p.text for p in pieces if p.kind == kind)


def fed(ids, words, style, rng):
    """Pieces when ids come in random portions."""
    reader, pieces, rest = turns.Reader(words, style), [], list(ids)
    while rest:
        n = rng.randint(1, 4)
        pieces += reader.feed(rest[:n])
        rest = rest[n:]
    return pieces + reader.finish()


@pytest.mark.parametrize("style, whole", STYLES)
def test_a_turn_is_told_apart(words, style, whole):
    message = {"role": "assistant", "content": "Done: é😀.", "reasoning_content": "First,\nthen.",
               "tool_calls": [{"name": "code_interpreter", "arguments": CALL.partition(
                   '"arguments": ')[2][:-1]}]}  # fmt: skip
    vocabulary = words["all" if whole else "few"]
    ids = chat.assistant_ids(message, vocabulary, style)
    pieces = fed(ids, vocabulary, style, random.Random(0))
    assert said(pieces, "thought") == "First,\nthen."
    assert said(pieces, "text") == "Done: é😀."
    assert said(pieces, "called").strip() == CALL
    assert turns.call_of(said(pieces, "called"))[0] == "code_interpreter"
    # The closing tag inside the code is shown as code, in both vocabularies.
    assert said(pieces, "call").strip() == CALL and not said(pieces, "broken")


MARKS = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool", "</", " ", "\n", "é", "😀",
     "12 ", "{", '{"name": "f", "arguments": {}}', "so <b> it", "x"]
)  # fmt: skip


@settings(derandomize=True, max_examples=80, deadline=None, database=None)
@given(st.lists(MARKS, max_size=12), st.sampled_from(STYLES), st.randoms(use_true_random=False))
def test_portions_do_not_matter_and_the_text_is_the_parsed_one(words, parts, how, rng):
    style, whole = how
    vocabulary = words["all" if whole else "few"]
    ids = []
    for part in parts:
        control = part in vocabulary.control
        ids += [vocabulary.control[part]] if control else vocabulary.encode(part)
    whole_pieces = turns.read(ids, vocabulary, style)
    pieces = fed(ids, vocabulary, style, rng)
    for kind in ("thought", "text", "called", "broken", "call"):
        assert said(pieces, kind) == said(whole_pieces, kind)
    found = chat.parse_turn(ids, vocabulary, style)
    shown_before_a_close = said(turns.read_text("".join(parts), False), "text") and (
        "</think>" in "".join(parts)
    )
    if found.kind == "answer" and not shown_before_a_close:
        assert said(pieces, "text") == found.text


def test_bytes_of_one_character_wait_for_each_other(words):
    letters, ids = turns.Letters(words["all"]), words["all"].encode("a🜚b")
    shown = [letters.feed([i]) for i in ids]
    assert "".join(shown) == "a🜚b" and "" in shown
    broken = turns.Letters(words["all"])
    assert broken.feed(ids[:-3]) + broken.feed([], last=True) != ""


@pytest.fixture(scope="module")
def by_bytes(words, tmp_path_factory):
    """(vocabulary, the id of every byte) of two that tell what is no character differently."""
    learned, level = words["all"], made.words(tmp_path_factory.mktemp("bytes"))
    # GPT-2's letters: bytes that are visible stand for themselves, the others follow in order.
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in shown]
    letters = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [(learned, learned.byte_ids),
            (level, {b: level.full.token_to_id(letter) for b, letter in letters.items()})]  # fmt: skip


BYTES = st.sampled_from([*"é你😀\ufffda".encode(), 0xFF, 0x80, 0xE4, ord("b")])


@settings(derandomize=True, max_examples=150, deadline=None, database=None)
@given(st.lists(BYTES, max_size=60), st.lists(st.integers(0, 9), min_size=60, max_size=60))
def test_any_bytes_come_as_they_are_decoded_whole(by_bytes, found, portions):
    for vocabulary, byte_ids in by_bytes:
        ids, letters = [byte_ids[b] for b in found], turns.Letters(vocabulary)
        shown, rest = "", ids
        for n in portions:
            shown, rest = shown + letters.feed(rest[:n]), rest[n:]
        assert shown + letters.feed(rest, last=True) == vocabulary.decode(ids)


def test_bytes_without_end_are_shown_at_once_and_decoded_a_few_times(by_bytes):
    for vocabulary, byte_ids in by_bytes:
        decoded = 0

        def decode(ids, vocabulary=vocabulary):
            nonlocal decoded
            decoded += len(ids)
            return vocabulary.decode(ids)

        letters = turns.Letters(types.SimpleNamespace(decode=decode))
        shown = [letters.feed([byte_ids[0xFF]]) for _ in range(4000)]
        assert len("".join(shown)) >= 3997 and decoded < 20 * 4000


@pytest.mark.parametrize("call", [
    r"""{"name": "code_interpreter", "arguments": {"code": "print('HALF')"}}""",
    r"""{"name": "f", "arguments": "{\"code\": \"\HALF\"}"}""",
    r"""{"name": "f", "arguments": {"HALF": 1}}""", r"""{"name": "HALF", "arguments": {}}""",
])  # fmt: skip
def test_half_of_a_surrogate_pair_is_no_call(call):
    assert turns.call_of(call.replace("HALF", r"\ud83d")) is None
    slash = "\\" * call.count("\\HALF")
    assert turns.call_of(call.replace("HALF", rf"\ud83d{slash}\ude00")) is not None


def test_a_result_reads_back(words):
    for vocabulary in words.values():
        for text in ("12", "a\nb </tool_response> c", ""):
            ids = chat.tool_ids(text, vocabulary, "qwen3")
            assert turns.result_text(ids, vocabulary) == text


@pytest.mark.parametrize("system", [None, "Be brief.\n# Tools\nare there."])
@pytest.mark.parametrize("tools", [None, [chat.TOOL]])
@pytest.mark.parametrize("style", chat.STYLES)
def test_a_rendered_prompt_and_result_read_back(system, tools, style):
    messages = [{"role": "user", "content": "hi"}]
    messages = messages if system is None else [{"role": "system", "content": system}, *messages]
    shown = chat.raw_prompt(messages, tools, style)
    assert turns.system_of(shown) == (system or "")
    assert turns.opens_thought(shown) == turns.begins_thinking(style)
    assert turns.inside_result(chat.raw_result("12\n", style)) == "12\n"


def test_what_may_begin_a_word():
    assert turns.beginning("abc<tool", ["<tool_call>", "xyz"]) == 5
    assert turns.beginning("abc<tool_call>", ["<tool_call>"]) == 0
    assert turns.beginning("", ["ab"]) == 0 and turns.beginning("a", []) == 0


def test_a_real_vocabulary(words):
    qwen = tokenizer.load(shared_data.path("qwen3/tokenizer.json"))
    text = "Größe 😀: 一二三 <think> is a tag."
    assert said(turns.read(qwen.encode(text), qwen, "qwen3"), "text") == text
    letters = turns.Letters(qwen)
    assert "".join(letters.feed([i]) for i in qwen.encode(text)) == text
