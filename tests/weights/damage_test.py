"""Damage of any kind: every loader reads or says so in one error that names the file, soon.

Seeded changes of single fields and of bytes in small real files of every format.
"""

import dataclasses
import json
import pathlib
import random
import resource
import time

import pytest

from aster_jax import errors, weights
from aster_jax.data import tokenizer
from tests import shared_data
from tests.weights import made

SECONDS, BYTES = 2.0, 256 << 20  # processor time of one attempt, memory of all of a test
ODD = (None, True, False, 0, -1, 1, 3, 2.5, 1e400, float("nan"), 3 * 10**7, 2**32 - 1, 10**30, "",
       "x", "4", "a\0b", "\ud800", [], {}, [1], ["x"], {"a": 1}, [[]], KeyError)  # fmt: skip


def attempts(path: pathlib.Path, load, contents):
    """Load with every content of the file in turn; how many were read, and how many refused."""
    whole, read, refused = path.read_bytes(), 0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for content in contents:
        path.write_bytes(content)
        start = time.process_time()
        try:
            load()
            read += 1
        except errors.InputError as error:
            assert str(path.parent) in str(error), content[:500]
            refused += 1
        assert time.process_time() - start < SECONDS, content[:500]
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
    path.write_bytes(whole)
    load()  # the file is what it was, and whole
    return read, refused


def places(value, most: int, rng):
    """Paths to all parts of a JSON value, or to all of its top and some of the others."""
    found, todo = [], [((), value)]
    while todo:
        path, part = todo.pop()
        found.append(path)
        inner = part.items() if isinstance(part, dict) else ()
        inner = enumerate(part) if isinstance(part, list) else inner
        todo += [((*path, key), of) for key, of in inner]
    top = [path for path in found if len(path) <= 1]
    deep = [path for path in found if len(path) > 1]
    return top + rng.sample(deep, min(len(deep), most))


def other_fields(path: pathlib.Path, most=12):
    """The file with one field replaced by every odd value, or removed."""
    text, rng = path.read_text(), random.Random(0)
    for where in places(json.loads(text), most, rng):
        for odd in ODD:
            changed = json.loads(text)
            if not where:
                changed = None if odd is KeyError else odd
            else:
                part = changed
                for key in where[:-1]:
                    part = part[key]
                if odd is KeyError:
                    del part[where[-1]]
                else:
                    part[where[-1]] = odd
            yield json.dumps(changed).encode()


def other_bytes(path: pathlib.Path, count: int, within: int | None = None):
    """The file with a few bytes of its start changed, cut out or put in."""
    whole, rng = path.read_bytes(), random.Random(1)
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at, size = rng.randrange(min(within or len(data), len(data))), rng.choice([1, 4, 8, 30])
            kind = rng.randrange(5)
            if kind == 0:
                data[at] = rng.choice([0, 1, 127, 128, 255])
            elif kind == 1:
                data[at : at + size] = rng.choice([b"\0", b"\xff"]) * size
            elif kind == 2:
                number = rng.choice([2**31, 3 * 10**7, 2**63 - 1, len(whole), rng.getrandbits(40)])
                data[at : at + 8] = number.to_bytes(8, "little")
            elif kind == 3:
                del data[at : at + size]
            else:
                data[at:at] = rng.randbytes(size)
            data = data or bytearray(b"x")
        yield bytes(data)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model with its tokenizer, in several files."""
    folder = tmp_path_factory.mktemp("damage")
    words = made.words(folder / "words")
    cfg = dataclasses.replace(made.QWEN, vocab_size=words.vocab_size, num_layers=2)
    params = made.random_params(cfg)
    return weights.export(params, cfg, words, folder / "hf", max_file_bytes=60_000)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json",
                                  "tokenizer_config.json", "tokenizer.json"])  # fmt: skip
def test_any_field_of_a_checkpoint(checkpoint, name):
    read, refused = attempts(
        checkpoint / name, lambda: weights.describe(checkpoint), other_fields(checkpoint / name)
    )
    assert read > 3 and refused > 40


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "tokenizer.json",
                                  "chat_template.jinja"])  # fmt: skip
def test_any_bytes_of_a_checkpoints_texts(checkpoint, name):
    path = checkpoint / name
    if name == "chat_template.jinja":
        path.write_text("{{ messages }} <think> é")
    attempts(path, lambda: weights.describe(checkpoint), other_bytes(path, 200))


@pytest.mark.parametrize("name", ["qwen3_new_style", "llama_old_style"])
def test_any_bytes_of_real_tensors(tmp_path, name):
    for file in ("config.json", "model.safetensors"):
        content = shared_data.path(f"hf_tiny/{name}/{file}").read_bytes()
        (tmp_path / file).write_bytes(content)
    path = tmp_path / "model.safetensors"
    load = lambda: weights.load(tmp_path)  # noqa: E731
    read, refused = attempts(path, load, other_bytes(path, 80, within=4000))
    assert refused > 40
    read, refused = attempts(path, load, other_bytes(path, 30))
    assert read > 0
    path = tmp_path / "config.json"
    attempts(path, lambda: weights.describe(tmp_path), other_fields(path))


@pytest.mark.parametrize("within", [600, 2500, None])
def test_any_bytes_of_a_gguf_file(tmp_path, within):
    path = made.write_gguf(tmp_path / "m.gguf", made.LLAMA, made.random_params(made.LLAMA))
    attempts(path, lambda: weights.load(path), other_bytes(path, 200, within))


def test_any_bytes_of_a_sentencepiece_model(tmp_path):
    tokenizer.train_sentencepiece(["plain text"], 300, ["<|im_start|>", "<|im_end|>"], tmp_path)
    path = tmp_path / "tokenizer.model"
    attempts(path, lambda: tokenizer.load(path), other_bytes(path, 300))
