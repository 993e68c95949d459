"""Bad input: one sentence that says what to do, no success, and no stage left as finished.

The command line is run in this process, except where its streams and exit code are the
point; what is wrong is said before the first stage starts.
"""

import sys

import jax
import numpy as np
import pytest
from absl import flags

from aster_jax import main, policy, weights
from aster_jax.data import chat, tokenizer
from aster_jax.model import transformer
from experiments import smoke
from tests import smoke_run


@pytest.fixture
def refuse(monkeypatch, tmp_path):
    """Run the command with these arguments and return the sentence it ends with."""

    def run(*arguments, path=tmp_path / "run"):
        monkeypatch.chdir(smoke_run.ROOT)
        argv = ["main", smoke_run.CONFIG, f"--workdir={path}", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as caught:
            main.cli()
        sentence = caught.value.code  # a text: Python prints it and exits with code 1
        assert isinstance(sentence, str) and sentence.startswith("aster_jax: ")
        assert "\n" not in sentence
        left = sorted(p.name for p in path.rglob("*")) if path.is_dir() else []
        assert set(left) <= {"config.json", "run.log"}, left
        return sentence

    yield run
    flags.FLAGS.unparse_flags()
    for name in [n for n in flags.FLAGS if n.startswith("config.")]:
        delattr(flags.FLAGS, name)


def test_the_process_says_it_on_stderr_and_fails(tmp_path):
    (tmp_path / "taken").write_text("")
    code, out, err, _ = smoke_run.launch(tmp_path / "taken" / "run")
    assert code == 1 and not out
    lines = [line for line in err.splitlines() if line.startswith("aster_jax: ")]
    assert len(lines) == 1 and "Traceback" not in err
    assert "cannot be written" in lines[0] and "--workdir" in lines[0]


def test_unknown_key(refuse):
    assert "did you mean --config.rl.group?" in refuse("--config.rl.gruop=4")


def test_a_value_that_cannot_be(refuse):
    assert "raise the capacity" in refuse("--config.rollout.capacity=100")
    assert "stages" in refuse("--config.stages=('sft','demos')")
    assert "known are tensorboard, wandb, trackio" in refuse("--config.track=('comet',)")


def test_an_engine_that_cannot_be_built(refuse):
    """Else said by the first stage that rolls out, after SFT has been paid for."""
    assert "these are cpu; choose 'auto' or 'xla'" in refuse("--config.rollout.attention=gpu")
    assert "prefill_buckets=() must be ascending" in refuse("--config.rollout.prefill_buckets=()")
    assert "rl1.turn_tokens=0 must be at least 1" in refuse("--config.rl1.turn_tokens=0")


def test_markup_that_nobody_knows(refuse):
    assert "model.style='llama'; choose one of" in refuse("--config.model.style=llama")


def test_too_few_problems_for_a_step(refuse):
    """Fewer than asked make smaller steps; fewer than minibatches make none."""
    said = refuse("--config.problems.num_train=1", "--config.rl.minibatches=2")
    assert "there are 1 training problems" in said and "rl.minibatches=2" in said


def test_weights_that_are_not_there(refuse, tmp_path):
    text = refuse(f"--config.model.source={tmp_path}/absent")
    assert "absent" in text and "hf://ORG/NAME" in text


def checkpoint(tmp_path, words=True):
    """A Hugging Face directory of a random model, with its tokenizer or without."""
    learned = None
    if words:
        learned = tokenizer.train_sentencepiece(
            ["one two three 1 2 3"] * 9, 300, chat.CONTROL, tmp_path / "words"
        )
    c = smoke.get_config()
    c.model.vocab_size = learned.vocab_size if words else 64
    cfg = policy._scratch_config(c.model, c.model.vocab_size)
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), transformer.abstract_params(cfg)
    )
    return weights.export(params, cfg, learned, tmp_path / "weights")


@pytest.mark.parametrize("damage", ["truncated", "no config", "no tensors", "no tokenizer"])
def test_damaged_weights(refuse, tmp_path, damage):
    path = checkpoint(tmp_path, words=damage != "no tokenizer")
    tensors = path / "model.safetensors"
    if damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-4000])
    elif damage == "no config":
        (path / "config.json").unlink()
    elif damage == "no tensors":
        tensors.unlink()
    assert str(path) in refuse(f"--config.model.source={path}")


@pytest.mark.parametrize("split", ["source", "heldout"])
@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no problems"),
        ('{"question": "What is 1+1?"}\n', "row 1 has no answer"),
        ('{"question": "What is 1+1?", "answer": " "}\n', "is empty"),
        ('{"question": "What', "is not JSON"),
    ],
)
def test_problem_files(refuse, tmp_path, split, text, message):
    path = tmp_path / "problems.jsonl"
    path.write_text(text)
    said = refuse(f"--config.problems.{split}={path}")
    assert message in said and str(path) in said


def test_a_problem_file_that_is_not_there(refuse):
    assert "does not exist" in refuse("--config.problems.heldout=absent.jsonl")


def test_a_model_larger_than_the_memory(refuse):
    said = refuse("--config.model.num_layers=200", "--config.model.d_model=16384",
                  "--config.model.d_ff=65536")  # fmt: skip
    assert "GiB" in said and "mesh.fsdp" in said and "a smaller model" in said


def test_a_cache_larger_than_the_memory(refuse):
    assert "rollout.pool_tokens" in refuse("--config.rollout.pool_tokens=100000000000")
