"""GGUF files: the header as another writer wrote it, quantised rows, and damage of any kind."""

import functools

import gguf
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from aster_jax.weights import gguf_file
from tests.weights import made

RUN = hypothesis.settings(derandomize=True, max_examples=150, deadline=None, database=None)


@functools.cache
def whole(folder) -> bytes:
    path = made.write_gguf(folder / "m.gguf", made.LLAMA, made.random_params(made.LLAMA))
    return path.read_bytes()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


def opened(folder, data: bytes):
    path = folder / "changed.gguf"
    path.write_bytes(data)
    return gguf_file.GgufArchive(path)


def test_header_and_tensors_are_what_was_written(folder):
    archive = opened(folder, whole(folder))
    assert archive.fields["llama.attention.head_count_kv"] == made.LLAMA.num_kv_heads
    assert archive.fields["tokenizer.ggml.merges"] == ["t h", "th e"]
    assert archive.fields["llama.rope.freq_base"] == 1e4 and archive.permuted
    assert archive.shapes["blk.2.ffn_down.weight"] == (32, 48)
    expected = made.random_params(made.LLAMA)["embed"]["w"]
    part = archive.read("token_embd.weight", slice(5, 9), slice(3, 30))
    np.testing.assert_array_equal(part, expected[5:9, 3:30])


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16"])
def test_quantised_rows_equal_the_reference_dequantiser(tmp_path, kind):
    kind = gguf.GGMLQuantizationType[kind]
    weights_RC = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    stored = gguf.quants.quantize(weights_RC, kind)
    writer = gguf.GGUFWriter(str(tmp_path / "q.gguf"), "llama")
    writer.add_tensor("w", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    archive = gguf_file.GgufArchive(tmp_path / "q.gguf")
    expected = gguf.quants.dequantize(stored, kind)
    np.testing.assert_array_equal(archive.read("w", slice(2, 5), slice(1, 40)), expected[2:5, 1:40])
    assert np.abs(expected - weights_RC).max() < 0.25


@RUN
@hypothesis.given(st.floats(0, 0.999))
def test_any_truncation_is_named(folder, fraction):
    data = whole(folder)
    with pytest.raises(ValueError, match="changed.gguf is truncated or no GGUF file"):
        opened(folder, data[: int(fraction * len(data))])


@RUN
@hypothesis.given(st.integers(4, 1500), st.binary(min_size=1, max_size=4))
def test_a_damaged_header_reads_or_is_named(folder, at, noise):
    data = bytearray(whole(folder))
    data[at : at + len(noise)] = noise
    try:
        opened(folder, bytes(data))
    except ValueError as error:
        assert "changed.gguf" in str(error)


def test_other_versions_are_refused(folder):
    data = bytearray(whole(folder))
    data[4] = 1
    with pytest.raises(ValueError, match="version 1 is not supported"):
        opened(folder, bytes(data))
