"""Log-probabilities of given tokens: the only place where positions shift by one.

logits[t] predict token t + 1, so everything here is indexed by the *predicted* token:
entry t describes token t given the tokens before it, entry 0 is 0 by definition. Used by
both losses, by the trainer's recomputation of old log-probs and by tests of the engine.
"""

import functools

import jax
import jax.numpy as jnp

from aster_jax.model import config, transformer

# Tokens per block of vocabulary-sized work: [BLOCK, V] float32 is the largest temporary.
BLOCK = 1024


def token_logprobs(
    params: dict,
    cfg: config.ModelConfig,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    segments_BT: jax.Array,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """(logprob_BT, entropy_BT) in nats, float32, indexed by the predicted token.

    At `temperature` the scores are divided by it first, as in sampling. The entry of a
    segment's first token is 0. The [tokens, vocabulary] scores exist for one block of
    tokens at a time and are recomputed in the backward pass.
    """
    hidden_BTD, _ = transformer.forward(params, cfg, tokens_BT, positions_BT, segments_BT)
    B, T, D = hidden_BTD.shape
    targets_BT = jnp.roll(tokens_BT, -1, axis=1)
    logp, entropy = _blocked(params, cfg, hidden_BTD.reshape(B * T, D), targets_BT.reshape(-1), temperature)
    first_BT = jnp.concatenate(
        [jnp.ones((B, 1), bool), segments_BT[:, 1:] != segments_BT[:, :-1]], axis=1
    )

    def shift(x):
        return jnp.where(first_BT, 0.0, jnp.roll(x.reshape(B, T), 1, axis=1))

    return shift(logp), shift(entropy)


def _blocked(params, cfg, hidden_RD, targets_R, temperature):
    """Log-prob and entropy per row of `hidden_RD`, in blocks with recomputation."""
    rows = hidden_RD.shape[0]
    block = min(BLOCK, rows)
    pad = -rows % block
    hidden_RD = jnp.pad(hidden_RD, ((0, pad), (0, 0)))
    targets_R = jnp.pad(targets_R, (0, pad))

    @jax.checkpoint
    def one(hidden_XD, targets_X):
        scores_XV = transformer.logits(params, cfg, hidden_XD[None])[0] / temperature
        logz_X = jax.nn.logsumexp(scores_XV, axis=-1)
        chosen_X = jnp.take_along_axis(scores_XV, targets_X[:, None], axis=-1)[:, 0]
        # H = log Z - E[score]; exact, and needs no second [X, V] array kept for backward.
        mean_X = jnp.sum(jax.nn.softmax(scores_XV, axis=-1) * scores_XV, axis=-1)
        return chosen_X - logz_X, jax.lax.stop_gradient(logz_X - mean_X)

    if rows == block:
        return one(hidden_RD, targets_R)
    shaped = (hidden_RD.reshape(-1, block, hidden_RD.shape[1]), targets_R.reshape(-1, block))
    _, (logp, entropy) = jax.lax.scan(lambda _, x: (None, one(*x)), None, shaped)
    return logp.reshape(-1)[:rows], entropy.reshape(-1)[:rows]


@functools.partial(jax.jit, static_argnames=("cfg", "temperature"))
def score(params, tokens_BT, positions_BT, segments_BT, *, cfg, temperature=1.0):
    """`token_logprobs` compiled without gradients; shardings follow the arguments'."""
    return token_logprobs(params, cfg, tokens_BT, positions_BT, segments_BT, temperature)
