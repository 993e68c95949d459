"""Exporting: bit-equal round trips, files of limited size, and what transformers makes of it."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from aster_jax import mesh as meshes
from aster_jax import weights
from aster_jax.data import chat, tokenizer
from tests import shared_data
from tests.data import tokenizer_test
from tests.weights import made

learned = tokenizer_test.learned
SHAPES = {
    "qwen3": made.QWEN,
    "llama": made.LLAMA,
    "tied_qwen3": dataclasses.replace(made.QWEN, tie_embeddings=True, num_kv_heads=4),
    "untied_llama": dataclasses.replace(made.LLAMA, tie_embeddings=False, head_dim=8),
    "one_kv_head": dataclasses.replace(made.QWEN, num_kv_heads=1, head_dim=8, rope_theta=5e6),
}


@pytest.mark.parametrize("name", ["qwen3_new_style", "llama_old_style"])
def test_load_export_load_is_bit_equal(name, tmp_path):
    first = weights.load(shared_data.path(f"hf_tiny/{name}"))
    weights.export(first.params, first.config, first.tokenizer, tmp_path / "out")
    second = weights.load(tmp_path / "out")
    made.assert_same(second.params, first.params)
    assert second.config == first.config


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
def test_random_models_round_trip_in_small_files(tmp_path, cfg):
    limit = 24_000
    where, params = made.hf_directory(tmp_path / "out", cfg, max_file_bytes=limit)
    made.assert_same(weights.load(where).params, params)
    files = sorted(where.glob("*.safetensors"))
    assert len(files) > 2
    header_bytes = 4_000
    assert max(f.stat().st_size for f in files) < limit + header_bytes
    index = json.loads((where / "model.safetensors.index.json").read_text())
    num_params = sum(x.size for x in jax.tree.leaves(params))
    assert index["metadata"]["total_size"] == 4 * num_params


def test_bfloat16_rounds_once_and_is_stable(tmp_path):
    where, params = made.hf_directory(tmp_path / "a", dtype="bfloat16")
    rounded = weights.load(where, dtype="bfloat16")
    made.assert_same(rounded.params, jax.tree.map(lambda x: x.astype("bfloat16"), params))
    assert json.loads((where / "config.json").read_text())["torch_dtype"] == "bfloat16"
    weights.export(rounded.params, rounded.config, None, tmp_path / "b", dtype="bfloat16")
    made.assert_same(weights.load(tmp_path / "b", dtype="bfloat16").params, rounded.params)


def test_sharded_parameters_export_the_same_files(tmp_path, eight_devices):
    where, params = made.hf_directory(tmp_path / "a")
    placed = jax.device_put(params, meshes.shardings(params, eight_devices))
    weights.export(placed, made.QWEN, None, tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "b" / name).read_bytes() == (where / name).read_bytes()


def test_tokenizer_files_travel_along(tmp_path):
    words = tokenizer_test.qwen3()
    cfg = dataclasses.replace(made.QWEN, vocab_size=151_936, num_layers=1, d_model=4)
    style = "qwen3_thinking_2507"
    weights.export(made.random_params(cfg), cfg, words, tmp_path / "out", "bfloat16", style=style)
    m = weights.describe(tmp_path / "out")
    # The template is part of the tokenizer from here on: a second export keeps it unasked.
    m.tokenizer.save(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert again["chat_template"] == m.template == chat.template(style)
    assert m.style == style
    assert chat.prompt_ids("hi", [chat.TOOL], m.tokenizer, m.style) == chat.prompt_ids(
        "hi", [chat.TOOL], words, m.style
    )
    chosen = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (chosen["eos_token_id"], chosen["pad_token_id"]) == ([151_645, 151_643], 151_643)


@pytest.mark.parametrize("style", [None, "chatml", "qwen3"])
def test_an_export_of_a_base_checkpoint_stops_at_the_end_of_a_turn(tmp_path, style):
    """Its tokenizer's own end is <|endoftext|> (id 0), the turns trained here end at id 2."""
    first = made.write_gguf(tmp_path / "m.gguf", made.QWEN, made.random_params(made.QWEN))
    m = weights.load(first)
    base = dataclasses.replace(m.tokenizer, eos_id=0)
    assert chat.stop_ids(base, "chatml") == (2, 0)
    where = weights.export(m.params, m.config, base, tmp_path / "a", style=style)
    chosen = json.loads((where / "generation_config.json").read_text())
    assert chosen["eos_token_id"] == [2, 0]
    assert json.loads((where / "config.json").read_text())["eos_token_id"] == 0
    made.assert_same(weights.load(where).params, m.params)
    # An instruct checkpoint's tokenizer names the end of a turn: no id is said twice.
    where = weights.export(m.params, m.config, m.tokenizer, tmp_path / "b", style=style)
    chosen = json.loads((where / "generation_config.json").read_text())
    assert chosen["eos_token_id"] == [2, 0]


@pytest.mark.parametrize("style", chat.STYLES)
def test_the_exported_template_says_which_style_it_is(tmp_path, style):
    m = weights.load(made.write_gguf(tmp_path / "m.gguf", made.QWEN, made.random_params(made.QWEN)))
    where = weights.export(m.params, m.config, m.tokenizer, tmp_path / "a", style=style)
    again = weights.load(where)
    assert again.style == style and again.template == chat.template(style)
    # Exported again without being asked for a style, the thoughts are still kept.
    where = weights.export(again.params, again.config, again.tokenizer, tmp_path / "b")
    assert weights.describe(where).template == chat.template(style)


def test_a_template_beside_a_sentencepiece_model_is_read(tmp_path, learned):
    cfg = dataclasses.replace(made.QWEN, vocab_size=512)
    params = made.random_params(cfg)
    weights.export(params, cfg, learned[0], tmp_path / "a", style="qwen3_thinking_2507")
    assert weights.describe(tmp_path / "a").style == "qwen3_thinking_2507"


def test_qwens_own_template_is_replaced_by_one_that_keeps_thoughts(tmp_path):
    where, _ = export_talker(tmp_path, None)
    assert "last_query_index" in tokenizer.chat_template(tokenizer_test.qwen3())
    assert weights.describe(where).template == chat.template("qwen3")


def export_talker(tmp_path, style):
    """A model as small as Qwen's vocabulary allows, exported, and as it was before."""
    cfg = dataclasses.replace(made.QWEN, vocab_size=151_936, num_layers=1, d_model=4)
    m = weights.Loaded(made.random_params(cfg), cfg, tokenizer_test.qwen3(), "", None, None)
    where = weights.export(m.params, cfg, m.tokenizer, tmp_path / "a", style=style)
    return where, m


TALK = [
    {"role": "system", "content": "Be exact: é, 'quotes' & <tags>."},
    {"role": "user", "content": "What is 2**10?"},
    chat.call_message("Let me run it.", "print(2**10)\nprint('<é>')", reasoning="Powers."),
    {"role": "tool", "content": "1024\n<é>"},
    {"role": "assistant", "content": r"\boxed{1024}", "reasoning_content": "\nIt is 1024.\n"},
    {"role": "user", "content": "And 2**11?"},
    {"role": "assistant", "content": "<think>\nDouble.\n</think>\n\nTwo calls.", "tool_calls": [
        {"type": "function", "function": {"name": "code_interpreter", "arguments": '{"code": "1"}'}},
        {"name": "code_interpreter", "arguments": {"code": "print(2)"}},
    ]},
    {"role": "tool", "content": ""},
    {"role": "tool", "content": "2\n\n"},
    chat.call_message("", "2048", reasoning="Again."),
    {"role": "tool", "content": "2048"},
    {"role": "assistant", "content": "2048.", "reasoning_content": "Done."},
    {"role": "user", "content": "Thanks"},
]  # fmt: skip


@pytest.mark.parametrize("style", chat.STYLES)
def test_transformers_renders_the_exported_template_as_training_did(tmp_path, style):
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra: peers)")
    where, m = export_talker(tmp_path, style)
    peer = transformers.AutoTokenizer.from_pretrained(where)
    assert peer.chat_template == chat.template(style)
    count = 0
    for tools in (None, [chat.TOOL], [chat.TOOL, {"name": "other", "é": ["<b>", 1.5, None]}]):
        for start in (0, 1):  # with and without a system message
            for stop in range(2, len(TALK) + 1):
                for opened in (True, False):
                    talk = TALK[start:stop]
                    found = peer.apply_chat_template(
                        talk, tools=tools, add_generation_prompt=opened, tokenize=True,
                        return_dict=False,
                    )  # fmt: skip
                    ids, _ = chat.render(talk, tools, m.tokenizer, style, opened)
                    assert found == ids, (peer.decode(found), m.tokenizer.decode(ids))
                    count += 1
    assert count == 3 * 2 * 12 * 2


def test_transformers_renders_unthinking_turns_and_stray_texts_alike(tmp_path):
    """No thought, an unclosed one, white space at the edges: where templates differ most."""
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra: peers)")
    odd = ["", " a ", "\n\nb\n", "<think>x", "<think>x</think>y", "</think>\n\nz", "e\u0301"]
    for style in ("qwen3", "chatml"):
        where, m = export_talker(tmp_path / style, style)
        peer = transformers.AutoTokenizer.from_pretrained(where)
        for text in odd:
            talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]
            talk += [{"role": "user", "content": "so"}, chat.call_message(text, "1")]
            found = peer.apply_chat_template(talk, tokenize=False)
            assert found == chat.render_text(talk, None, style)


def test_errors_name_what_does_not_fit(tmp_path):
    params = made.random_params(made.QWEN)
    other = dataclasses.replace(made.QWEN, d_ff=50)
    with pytest.raises(ValueError, match=r"layers/gate/w has shape \(3, 32, 48\)"):
        weights.export(params, other, None, tmp_path)
    tied = dataclasses.replace(made.QWEN, tie_embeddings=True)
    with pytest.raises(ValueError, match="hold 1 arrays that the config does not know"):
        weights.export(params, tied, None, tmp_path)
    with pytest.raises(ValueError, match="dtype='int8' is unknown"):
        weights.export(params, made.QWEN, None, tmp_path, dtype="int8")
    with pytest.raises(ValueError, match="style='alpaca' is unknown"):
        weights.export(params, made.QWEN, tokenizer_test.qwen3(), tmp_path, style="alpaca")
    with pytest.raises(ValueError, match="style='qwen3' needs the tokenizer"):
        weights.export(params, made.QWEN, None, tmp_path, style="qwen3")
    weights.export(params, made.QWEN, None, tmp_path)
    with pytest.raises(ValueError, match="already holds a checkpoint"):
        weights.export(params, made.QWEN, None, tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_an_export_that_fails_in_the_middle_leaves_no_checkpoint(tmp_path, there):
    """Its last tensor is spoilt: all files before it have been written by then."""
    params, out = made.random_params(made.QWEN), tmp_path / "out"
    if there:
        out.mkdir()
        (out / "notes.txt").write_text("kept")
    params["unembed"]["w"][-1, -1] = np.nan
    with pytest.raises(ValueError, match="lm_head.weight is not finite"):
        weights.export(params, made.QWEN, None, out, max_file_bytes=20_000)
    assert [f.name for f in tmp_path.rglob("*") if f.is_file()] == ["notes.txt"] * there
    params["unembed"]["w"][-1, -1] = 3.4e38
    with pytest.raises(ValueError, match="lm_head.weight is not finite.* as bfloat16"):
        weights.export(params, made.QWEN, None, out, dtype="bfloat16")
    weights.export(params, made.QWEN, None, out)
    made.assert_same(weights.load(out).params, params)
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
    assert (out / "notes.txt").exists() == there


def test_what_a_killed_export_left_is_cleared(tmp_path):
    for left in (tmp_path / ".out.partial", tmp_path / "other" / ".partial"):
        left.mkdir(parents=True)
        (left / "model.safetensors").write_text("half")
    for name in ("out", "other"):
        where, params = made.hf_directory(tmp_path / name)
        made.assert_same(weights.load(where).params, params)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["other", "out"]
    assert sorted(f.name for f in where.iterdir()) == ["config.json", "model.safetensors"]


def test_among_other_files_config_json_comes_last(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("of another model")
    moved, move = [], os.replace

    def replace(source, target):
        assert not (tmp_path / "config.json").exists()
        moved.append(target.name)
        move(source, target)

    monkeypatch.setattr(os, "replace", replace)
    made.hf_directory(tmp_path, max_file_bytes=30_000)
    assert len(moved) > 3 and moved[-1] == "config.json"


TOKENS = np.random.default_rng(1).integers(0, 96, (2, 23))


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
def test_transformers_loads_the_export_and_agrees(tmp_path, cfg):
    torch = pytest.importorskip("torch", reason="needs torch (extra: peers)")
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra: peers)")
    where, params = made.hf_directory(tmp_path / "out", cfg, max_file_bytes=50_000)
    peer, report = transformers.AutoModelForCausalLM.from_pretrained(
        where, torch_dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        expected = peer(torch.tensor(TOKENS)).logits.numpy()
    found = weights.load(where).apply(TOKENS)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(expected).max() > 0.5  # not a model that says the same of everything


@pytest.mark.parametrize("name", ["qwen3_new_style", "llama_old_style"])
def test_transformers_loads_what_was_loaded_and_exported(tmp_path, name):
    torch = pytest.importorskip("torch", reason="needs torch (extra: peers)")
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra: peers)")
    folder = shared_data.path(f"hf_tiny/{name}")
    m = weights.load(folder)
    weights.export(m.params, m.config, m.tokenizer, tmp_path / "out")
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", torch_dtype=torch.float32
    )
    stored = np.load(folder / "logits.npz")
    with torch.no_grad():
        found = peer(torch.tensor(stored["input_ids"], dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(found, stored["logits"], atol=1e-4)
    np.testing.assert_allclose(m.apply(stored["input_ids"]), found, atol=1e-4)


@pytest.mark.parametrize("family", ["Qwen3", "Llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_models_made_by_transformers_load_and_agree(tmp_path, family, tied):
    torch = pytest.importorskip("torch", reason="needs torch (extra: peers)")
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra: peers)")
    torch.manual_seed(3)
    cfg = getattr(transformers, f"{family}Config")(
        vocab_size=96, hidden_size=48, intermediate_size=56, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=3, head_dim=16, tie_word_embeddings=tied,
        max_position_embeddings=64, initializer_range=0.2, rms_norm_eps=1e-5,
    )  # fmt: skip
    peer = getattr(transformers, f"{family}ForCausalLM")(cfg).eval()
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "norm" in name:
                weight.uniform_(0.25, 1.75)
        expected = peer(torch.tensor(TOKENS)).logits.numpy()
    peer.save_pretrained(tmp_path / "peer", max_shard_size="40KB")
    np.testing.assert_allclose(weights.load(tmp_path / "peer").apply(TOKENS), expected, atol=1e-4)
