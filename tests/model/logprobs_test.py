"""Token log-probabilities: the shift by one, segments, blocks, temperature, gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.model import config, logprobs, transformer

TOKENS = np.asarray([[5, 9, 9, 3, 40, 2, 7, 1, 0, 0, 0], [4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]])
SEGMENTS = np.asarray([[1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0], [1] * 11])
POSITIONS = np.asarray([[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2], list(range(11))])


def naive(params, cfg, temperature=1.0):
    hidden, _ = transformer.forward(params, cfg, TOKENS, POSITIONS, SEGMENTS)
    logp = jax.nn.log_softmax(transformer.logits(params, cfg, hidden) / temperature)
    out = jnp.zeros(TOKENS.shape)
    for b in range(2):
        for t in range(1, 11):
            if SEGMENTS[b, t] == SEGMENTS[b, t - 1]:
                out = out.at[b, t].set(logp[b, t - 1, TOKENS[b, t]])
    entropy = -(jnp.exp(logp) * logp).sum(-1)
    return out, entropy


@pytest.mark.parametrize("block", [8, 1024])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_the_naive_log_softmax(tiny, params, monkeypatch, block, temperature):
    # 22 rows in blocks of 8 need padding; 1,024 is one block.
    monkeypatch.setattr(logprobs, "BLOCK", block)
    got, entropy = logprobs.token_logprobs(params, tiny, TOKENS, POSITIONS, SEGMENTS, temperature)
    expected, entropies = naive(params, tiny, temperature)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    # The entropy that stands at t is of the distribution token t was drawn from.
    assert entropy[0, 0] == entropy[0, 4] == 0
    np.testing.assert_allclose(entropy[1, 1:], entropies[1, :-1], atol=1e-4)


def test_gradients_equal_the_naive_ones(tiny, params, monkeypatch):
    monkeypatch.setattr(logprobs, "BLOCK", 8)
    weight = jax.random.normal(jax.random.key(1), TOKENS.shape)

    def blocked(p):
        logp, _ = logprobs.token_logprobs(p, tiny, TOKENS, POSITIONS, SEGMENTS)
        return jnp.sum(weight * logp)

    got = jax.jit(jax.grad(blocked))(params)
    expected = jax.jit(jax.grad(lambda p: jnp.sum(weight * naive(p, tiny)[0])))(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max() + 1))


@pytest.mark.parametrize("tied", [True, False])
def test_temporaries_are_a_twentieth_of_the_naive_ones(tied, record_property):
    """Qwen3's vocabulary, 32,768 tokens: scores, entropy and gradients, compiled but not run.

    The gradients, of the hidden states and of the table, are results and not counted. The
    width is small because only the size of the scores is in question.
    """
    V, R, D = 151_936, 32_768, 64
    cfg = dataclasses.replace(config.PRESETS["qwen3_0p6b"], d_model=D, tie_embeddings=tied)
    hidden, w_VD, w_DV = (jax.ShapeDtypeStruct(x, jnp.float32) for x in ((R, D), (V, D), (D, V)))
    table = {"embed": {"w": w_VD}} if tied else {"unembed": {"w": w_DV}}
    targets = jax.ShapeDtypeStruct((R,), jnp.int32)

    def whole(params, hidden_RD, targets_R):
        logp_RV = jax.nn.log_softmax(transformer.logits(params, cfg, hidden_RD[None])[0])
        logp_R = jnp.take_along_axis(logp_RV, targets_R[:, None], axis=-1)[:, 0]
        return logp_R, jax.lax.stop_gradient(-jnp.sum(jnp.exp(logp_RV) * logp_RV, axis=-1))

    def blocked(params, hidden_RD, targets_R):
        return logprobs._blocked(params, cfg, hidden_RD, targets_R, 1.0)

    def temporaries(way):
        def loss(*args):
            logp_R, entropy_R = way(*args)
            return jnp.sum(logp_R), (logp_R, entropy_R)

        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        memory = run.lower(table, hidden, targets).compile().memory_analysis()
        record_property(f"{way.__name__}_temporary_bytes", memory.temp_size_in_bytes)
        return memory.temp_size_in_bytes

    # jax 0.10.2 on CPU, tied or not: 1,303,527,664 of 59,752,316,928 bytes, 1/45.8. Copies of
    # the table and of its gradient come on top with the width: 1/25.9 at 1,024, and at 2,560
    # 1/14.8 (float32 compute: 1/27.2), where smaller blocks would not help.
    assert 20 * temporaries(blocked) < temporaries(whole)


def test_a_model_that_knows_nothing(tiny, params):
    blank = {**params, "embed": {"w": jnp.zeros_like(params["embed"]["w"])}}
    logp, entropy = logprobs.token_logprobs(blank, tiny, TOKENS, POSITIONS, SEGMENTS)
    assert logp[0, 0] == logp[0, 4] == logp[1, 0] == 0
    np.testing.assert_allclose(logp[1, 1:], -np.log(48), rtol=1e-6)
    np.testing.assert_allclose(entropy[1, 1:], np.log(48), rtol=1e-6)


def test_score_is_the_same_compiled(tiny, params):
    got, _ = logprobs.score(params, TOKENS, POSITIONS, SEGMENTS, cfg=tiny, temperature=0.7)
    expected, _ = logprobs.token_logprobs(params, tiny, TOKENS, POSITIONS, SEGMENTS, 0.7)
    np.testing.assert_allclose(got, expected, atol=2e-5)
