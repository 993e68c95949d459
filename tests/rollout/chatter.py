"""A small real model that talks: weights written so that it calls the tool and answers.

Every part is the real one (tokenizer learned here, chat markup, transformer, engine,
tool); only the weights are not trained. The score of the next token is a table of which
token followed which in some rendered turns, read through one-hot embeddings, plus what
random attention and feed-forward layers make of the whole context: the table keeps the
markup valid, the context decides between calling and answering and which digits to use.
"""

import collections
import dataclasses
import types as python_types

import jax
import jax.numpy as jnp
import numpy as np

from aster_jax import types
from aster_jax.data import chat, tokenizer
from aster_jax.model import config, transformer

STYLE = "chatml"
FLOOR = -25.0  # score of a token that never followed
CODES = [f"print({a}{op}{b})" for a in range(1, 10) for b in (1, 7) for op in "*+"]
# No digits: the table sees one token back, and a digit must mean that code goes on.
ANSWERS = [f"The answer is \\boxed{{{a}{b}}}." for a in "fghjkmpqvz" for b in "wxyz"]
QUESTIONS = ("What is 12*7?", "What is 31+7?", "Add 5 and 6.", "Name a prime.")


@dataclasses.dataclass(frozen=True)
class Chatter:
    """The model and what reads and writes its text."""

    cfg: config.ModelConfig
    params: dict
    tokenizer: object

    @property
    def stop_ids(self):
        return tuple(chat.stop_ids(self.tokenizer, STYLE))

    def prompt(self, question):
        return tuple(chat.prompt_ids(question, None, self.tokenizer, STYLE))


def loaded(directory):
    """It as `weights.load` would give it."""
    made = build(directory)
    return python_types.SimpleNamespace(
        params=made.params, config=made.cfg, tokenizer=made.tokenizer, style=STYLE, path="made"
    )


def build(directory) -> Chatter:
    """Learn the vocabulary, then write the weights."""
    turns = [chat.call_message("", code) for code in CODES] * 3
    turns += [{"role": "assistant", "content": text} for text in ANSWERS]
    texts = []
    for i, turn in enumerate(turns):
        question = {"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}
        result = {"role": "tool", "content": str(i)}
        texts += chat.text_runs([question, turn, result], None, STYLE)
    # SentencePiece strips the texts it learns from; a digit (always a piece of its own)
    # keeps the newline that ends a header.
    texts = [text + "0" if text.endswith("\n") else text for text in texts]
    words = tokenizer.train_sentencepiece(texts, 420, chat.CONTROL, directory)
    return Chatter(*_write(words, turns), words)


def _write(words, turns):
    V = words.vocab_size
    V += V % 2
    header = chat.prompt_ids("x", None, words, STYLE)[-1]
    follows = collections.defaultdict(collections.Counter)
    for turn in turns:
        ids = chat.assistant_ids(turn, words, STYLE)
        assert header not in ids, (words.decode([header]), [words.decode([i]) for i in ids])
        for before, after in zip([header, *ids], ids, strict=False):
            follows[before][after] += 1
    # Now and then a call that is closed before it says anything.
    call, end = words.control["<tool_call>"], words.control["</tool_call>"]
    follows[call][end] = max(1, sum(follows[call].values()) // 12)
    table_DV = np.full((V, V), FLOOR, np.float32)
    for before, after in follows.items():
        total = sum(after.values())
        for token, count in after.items():
            table_DV[before, token] = np.log(count / total)
    cfg = config.ModelConfig(
        vocab_size=V, num_layers=2, d_model=V, d_ff=16, num_heads=2, num_kv_heads=1, head_dim=8,
        rope_theta=1e4, rms_norm_eps=1e-6, tie_embeddings=False, qk_norm=True, max_positions=4096,
    )  # fmt: skip
    params = jax.jit(transformer.init_params, static_argnums=0)(cfg, jax.random.key(0))
    layers = dict(params["layers"])
    for name in ("o", "down"):
        layers[name] = {"w": layers[name]["w"] * 0.01}
    # After the last norm a one-hot vector has length sqrt(D).
    params |= {
        "embed": {"w": jnp.eye(V)},
        "unembed": {"w": jnp.asarray(table_DV / V**0.5)},
        "layers": layers,
    }
    return cfg, params


def problems(count):
    """Problems that differ in name and question."""
    return [
        types.Problem(f"p{i}", f"{QUESTIONS[i % 4]} ({i})", "1", "talk") for i in range(count)
    ]
