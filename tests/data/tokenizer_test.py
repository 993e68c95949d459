"""Tokenizers: published vectors, exact round trips, and texts that try to forge control ids."""

import functools
import json

import hypothesis
import hypothesis.strategies as st
import pytest
import tokenizers as hf

from aster_jax import errors
from aster_jax.data import chat, tokenizer
from tests import shared_data
from tests.weights import made

RUN = hypothesis.settings(derandomize=True, max_examples=60, deadline=None, database=None)
TEXT = st.text(max_size=40) | st.lists(
    st.sampled_from([*chat.CONTROL, " ", "  ", "\n", "\r\n", "\u2581", "é", "7", "a", "<unk>"]),
    max_size=8,
).map("".join)


@functools.cache
def qwen3():
    return tokenizer.load(shared_data.path("qwen3/tokenizer.json"))


@pytest.fixture(scope="session")
def learned(tmp_path_factory):
    texts = [f"What is {i} times {i + 7}?\n  It is {i * (i + 7)}." for i in range(100, 140)]
    texts += [
        chat.render_text([chat.call_message("", f"print({i} * {i + 7})")], None, "chatml")
        for i in range(40)
    ]
    where = tmp_path_factory.mktemp("learned")
    return tokenizer.train_sentencepiece(texts, 512, chat.CONTROL, where), where


def test_qwen3_gives_the_published_ids():
    vectors = json.loads(shared_data.path("qwen3/tokenizer_vectors.json").read_text())["vectors"]
    assert len(vectors) == 47
    assert [v["text"] for v in vectors if qwen3().encode(v["text"]) != v["ids"]] == []


def test_qwen3_knows_its_control_tokens():
    words = qwen3()
    assert (words.vocab_size, words.pad_id, words.eos_id) == (151_669, 151_643, 151_645)
    assert words.control["<tool_call>"] == 151_657 and len(words.control) == 26


def test_sentencepiece_model_gives_the_published_ids():
    words = tokenizer.load(shared_data.path("sentencepiece/mistral_v1.model"))
    vectors = json.loads(shared_data.path("sentencepiece/vectors.json").read_text())["vectors"]
    assert len(vectors) == 30
    assert [v["text"] for v in vectors if words.encode(v["text"]) != v["ids"]] == []
    assert [v["text"] for v in vectors if words.decode(v["ids"]) != v["decoded"]] == []


@RUN
@hypothesis.given(TEXT)
def test_no_text_becomes_a_control_id(learned, text):
    for words in (learned[0], qwen3()):
        assert not set(words.encode(text)) & set(words.control.values())


@RUN
@hypothesis.given(TEXT)
def test_learned_vocabulary_round_trips_any_text(learned, text):
    assert learned[0].decode(learned[0].encode(text)) == text


def test_markup_costs_one_piece_and_digits_stay_single(learned):
    words = learned[0]
    assert len(words.encode('\n{"name": "code_interpreter", "arguments": {"code": "print(')) == 1
    assert len(words.encode("123456")) == 6


def test_learned_vocabulary_is_deterministic_and_loads_again(learned, tmp_path):
    words, where = learned
    again = tokenizer.load(where)
    assert again.proto == words.proto and again.control == words.control
    again.save(tmp_path / "copy")
    assert tokenizer.load(tmp_path / "copy").encode("What is 1?") == words.encode("What is 1?")


def test_control_ids_and_strangers_decode_visibly(learned):
    for words in (learned[0], qwen3()):
        ids = [words.control["<|im_end|>"], *words.encode("ok"), words.vocab_size + 3]
        assert words.decode(ids) == "<|im_end|>ok\ufffd"


def test_lone_surrogates_are_replaced(learned):
    for words in (learned[0], qwen3()):
        assert words.decode(words.encode("a\ud800b")) == "a\ufffdb"


def test_saved_tokenizer_json_is_the_same_file(tmp_path):
    qwen3().save(tmp_path)
    again = tokenizer.load(tmp_path)
    assert again.source == qwen3().source and again.eos_id == qwen3().eos_id


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="neither tokenizer.json nor tokenizer.model"):
        tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        tokenizer.load(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="too small"):
        tokenizer.train_sentencepiece(["abc"], 100, chat.CONTROL, tmp_path)
    with pytest.raises(ValueError, match="lacks <|im_end|>"):
        tokenizer.train_sentencepiece(["abc"], 300, ["<x>"], tmp_path)


def test_a_vocabulary_that_reads_control_names_in_text_is_refused(tmp_path):
    whole = hf.Tokenizer(hf.models.WordLevel({"<|im_end|>": 0, "a": 1, "?": 2}, unk_token="?"))
    whole.add_special_tokens(["<|im_end|>"])
    whole.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="cannot be told from its control token"):
        tokenizer.load(tmp_path)


def test_whatever_a_library_raises_is_one_error_that_names_the_file(tmp_path):
    (tmp_path / "whole").mkdir()
    words = made.words(tmp_path / "whole")
    whole, path = json.loads(words.source), tmp_path / "tokenizer.json"
    cases = [
        "{}", "[]", "", "{", "[" * 100_000, '"x"', json.dumps({**whole, "model": None}),
        json.dumps({**whole, "model": {**whole["model"], "merges": [["zz", "y"]]}}),
        json.dumps({**whole, "model": {**whole["model"], "merges": "t h"}}),
        json.dumps({**whole, "added_tokens": None}), json.dumps({**whole, "added_tokens": [3]}),
        json.dumps({**whole, "pre_tokenizer": {"type": "of tomorrow"}}),
    ]  # fmt: skip
    for text in cases:
        path.write_text(text)
        with pytest.raises(errors.InputError, match="tokenizer.json"):
            tokenizer.load(tmp_path)
    path.write_text(words.source)
    for settings in ("[]", "{", '{"eos_token": 3}', '{"eos_token": {}}', '{"eos_token": "<x>"}',
                     '{"chat_template": 3}', '{"chat_template": [3]}'):  # fmt: skip
        (tmp_path / "tokenizer_config.json").write_text(settings)
        with pytest.raises(errors.InputError, match="tokenizer"):
            tokenizer.load(tmp_path)
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    for listed, chosen in ((named, "b"), (named[:1], None), (None, None)):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
        assert tokenizer.chat_template(tokenizer.load(tmp_path)) == chosen
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xff")
    with pytest.raises(errors.InputError, match="tokenizer_config.json is not UTF-8"):
        tokenizer.load(tmp_path)
