"""Token log-probabilities: the shift by one, segments, blocks, temperature, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.model import logprobs, transformer

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
