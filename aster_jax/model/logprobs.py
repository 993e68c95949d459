"""Log-probabilities of given tokens: the only place where positions shift by one.

logits[t] predict token t + 1, so everything here is indexed by the *predicted* token:
entry t describes token t given the tokens before it, entry 0 is 0 by definition. Used by
both losses, by the trainer's recomputation of old log-probs and by tests of the engine.

Letters of this file: R, all tokens in one axis (or the wanted ones); C, a block of the
vocabulary; G, the runs of neighbouring entries that a block consists of.
"""

import functools
import math

import jax
import jax.numpy as jnp

from aster_jax.model import config, context, matmul, transformer
from aster_jax.model.layout import constrain

# Vocabulary entries per block, in multiples of the model's width: [tokens, block] in float32
# is the largest temporary. Smaller blocks would spend their time on adding up the gradient
# of the hidden states, larger ones leave the caches of a CPU.
BLOCK = 2
# Runs per block, spread evenly over the vocabulary (fewer where it does not divide): every
# device of a `tensor` axis up to this size has its share of each block. Blocks of tokens
# instead of vocabulary would have every data shard do the work of all of them.
RUNS = 16
# Where only some tokens are wanted, a CPU computes the least of so many sizes that holds them.
# A program for each size takes its time to compile, so not where there are few scores.
SIZES = 8
MANY_SCORES = 1 << 24


def token_logprobs(
    params: dict,
    cfg: config.ModelConfig,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    segments_BT: jax.Array,
    temperature: float = 1.0,
    entropy_grad: bool = False,
    wanted_BT: jax.Array | None = None,
    until_BT: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(logprob_BT, entropy_BT) in nats, float32, indexed by the predicted token.

    Where `wanted_BT` is given and False, neither is read: there stands what was cheapest.
    `until_BT` as for `transformer.forward`.

    At `temperature` the scores are divided by it first, as in sampling. The entry of a
    segment's first token is 0. The [tokens, vocabulary] scores exist for one block of the
    vocabulary at a time and are recomputed in the backward pass. The entropy has a gradient
    only with `entropy_grad`.
    """
    hidden_BTD, _ = transformer.forward(
        params, cfg, tokens_BT, positions_BT, segments_BT, until_BT=until_BT
    )
    hidden_BTD = constrain(hidden_BTD, cfg.layout, "residual")
    targets_BT = context.spread(jnp.roll(tokens_BT, -1, axis=1), cfg.layout)
    w = params["embed"]["w"] if cfg.tie_embeddings else params["unembed"]["w"]
    rows = (context.flat(hidden_BTD, cfg.layout), context.flat(targets_BT, cfg.layout))
    if wanted_BT is not None and _leaves_out(cfg, tokens_BT.size):
        rows += (jnp.roll(wanted_BT, -1, axis=1).reshape(-1),)
    logp_R, entropy_R = _blocked(cfg, temperature, entropy_grad, w, *rows)
    first_BT = jnp.concatenate(
        [jnp.ones_like(segments_BT[:, :1], bool), segments_BT[:, 1:] != segments_BT[:, :-1]], axis=1
    )

    def shift(x_R):
        x_BT = context.in_order(context.unflat(x_R, tokens_BT.shape, cfg.layout), cfg.layout)
        return jnp.where(first_BT, 0.0, jnp.roll(x_BT, 1, axis=1))

    return shift(logp_R), shift(entropy_R)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _blocked(cfg, temperature, entropy_grad, w, hidden_RD, targets_R, wanted_R=None):
    """Log-prob of the target and entropy per row; `w` is [V, D] if tied, else [D, V].

    0 in rows that are not wanted. The backward pass is written out because the derivative of
    a scan would add a gradient of the size of the whole table for every block.
    """
    return _forward(cfg, temperature, entropy_grad, w, hidden_RD, targets_R, wanted_R)[0]


def _forward(cfg, temperature, entropy_grad, w, hidden_RD, targets_R, wanted_R):
    table = _gathered(cfg, w)

    def of(hidden_RD, targets_R):
        return (), _sums(cfg, temperature, table, hidden_RD, targets_R)

    _, (logp_R, entropy_R, logz_R) = _of_wanted(wanted_R, of, hidden_RD, targets_R)
    needed_R = entropy_R if entropy_grad else None
    return (logp_R, entropy_R), (w, table, hidden_RD, targets_R, wanted_R, logz_R, needed_R)


def _sums(cfg, temperature, table, hidden_RD, targets_R):
    """Log-prob, entropy and log Z of every row."""

    def add(sums, at, size):
        """Running maximum; sums of exp(score - maximum) alone and times score; target's score."""
        top_R, total_R, weighted_R, chosen_R = sums
        scores_RC = _scores(cfg, temperature, _cut(cfg, table, at, size), hidden_RD)
        new_R = jnp.maximum(top_R, scores_RC.max(axis=-1))
        kept_R = jnp.exp(top_R - new_R)
        exps_RC = jnp.exp(scores_RC - new_R[:, None])
        return (
            new_R,
            total_R * kept_R + exps_RC.sum(axis=-1),
            weighted_R * kept_R + (exps_RC * scores_RC).sum(axis=-1),
            chosen_R + jnp.where(_hits(cfg, at, size, targets_R), scores_RC, 0.0).sum(axis=-1),
        )

    zeros_R = jnp.zeros(targets_R.shape, jnp.float32)
    sums = (jnp.full_like(zeros_R, -jnp.inf), zeros_R, zeros_R, zeros_R)
    top_R, total_R, weighted_R, chosen_R = _fold(cfg, add, sums)
    logz_R = top_R + jnp.log(total_R)
    # Less the maximum first: log Z is rounded to the size of the scores, not of the log-prob.
    logp_R = (chosen_R - top_R) - jnp.log(total_R)
    # H = log Z - E[score].
    return logp_R, logz_R - weighted_R / total_R, logz_R


def _backward(cfg, temperature, entropy_grad, kept, cotangents):
    w, table, hidden_RD, targets_R, wanted_R, logz_R, entropy_R = kept
    scale_R, entropy_scale_R = (x_R / temperature for x_R in cotangents)

    def of(*rows):
        return _gradients(cfg, temperature, w, table, *rows)

    rows = hidden_RD, targets_R, logz_R, scale_R
    rows += (entropy_R, entropy_scale_R) if entropy_grad else ()
    dw, dhidden_RD = _of_wanted(wanted_R, of, *rows)
    return dw, dhidden_RD, None, None


def _gradients(
    cfg, temperature, w, table, hidden_RD, targets_R, logz_R, scale_R, entropy_R=None,
    entropy_scale_R=None,
):  # fmt: skip
    """Of the table and of the hidden states; `entropy_R` where the entropy has one, too."""
    dtype = jnp.dtype(cfg.compute_dtype)

    def add(grads, at, size):
        dw, dhidden_RD = grads
        w_CD = _cut(cfg, table, at, size)
        logp_RC = _scores(cfg, temperature, w_CD, hidden_RD) - logz_R[:, None]
        probs_RC = jnp.exp(logp_RC)
        hits_RC = _hits(cfg, at, size, targets_R)
        d_RC = scale_R[:, None] * (hits_RC - probs_RC)
        if entropy_R is not None:  # dH / dscore = -p (log p + H)
            d_RC -= entropy_scale_R[:, None] * probs_RC * (logp_RC + entropy_R[:, None])
        d_RC = d_RC.astype(dtype)
        float32 = ("float32", jnp.float32)
        dhidden_RD += matmul.einsum("RC,CD->RD", d_RC, w_CD, *float32)
        dw_CD = matmul.einsum("RC,RD->CD", d_RC, hidden_RD.astype(dtype), *float32)
        return _paste(cfg, dw, dw_CD, at, size), dhidden_RD

    dw = constrain(jnp.zeros_like(w), cfg.layout, "table")
    grads = (_view(cfg, dw), jnp.zeros(hidden_RD.shape, jnp.float32))
    dw, dhidden_RD = _fold(cfg, add, grads)
    dw = constrain(dw.reshape(w.shape), cfg.layout, "table")
    return dw, dhidden_RD.astype(hidden_RD.dtype)


_blocked.defvjp(_forward, _backward)


def _leaves_out(cfg, tokens) -> bool:
    """Whether rows that are not wanted are left out: on one CPU, where that spares enough.

    On a mesh, rows would have to change devices; the matrix units of others want many rows.
    """
    return cfg.platform == "cpu" and cfg.layout is None and tokens * cfg.vocab_size >= MANY_SCORES


def _of_wanted(wanted_R, of, *rows):
    """`of(*rows)`, a pair of which the second has a row per row: 0 in those not wanted.

    The wanted ones are put first, and the program of the least size that holds them is run.
    """
    if wanted_R is None:
        return of(*rows)
    R = len(wanted_R)
    order_R = jnp.argsort(~wanted_R, stable=True)
    sizes = sorted({-(-R * n // SIZES) for n in range(1, SIZES + 1)})

    def some(size, order_R, *rows):
        first = order_R[:size]
        whole, parts = of(*(x[first] for x in rows))

        def put_back(part):
            return jnp.zeros((R, *part.shape[1:]), part.dtype).at[first].set(part)

        return whole, jax.tree.map(put_back, parts)

    which = jnp.searchsorted(jnp.asarray(sizes), wanted_R.sum())
    return jax.lax.switch(which, [functools.partial(some, n) for n in sizes], order_R, *rows)


def _scores(cfg, temperature, w_CD, hidden_RD):
    hidden_RD = hidden_RD.astype(w_CD.dtype)
    scores_RC = matmul.einsum("RD,CD->RC", hidden_RD, w_CD, cfg.accum_dtype, jnp.float32)
    return scores_RC / temperature


def _gathered(cfg, w):
    """The table with its width whole on every device of a mesh: fetched at once, in the
    compute dtype, and not in the loop over its blocks. `w` where nothing is laid out."""
    if cfg.layout is None:
        return w
    # Both places are named: with the second alone it would be fetched first and cast then.
    narrow = constrain(w.astype(jnp.dtype(cfg.compute_dtype)), cfg.layout, "table")
    return constrain(narrow, cfg.layout, "table_rows")


# The vocabulary in blocks: G runs, each `size` long and beginning `at` a run's start.


def _runs(cfg) -> tuple[int, int]:
    """Number and length of the runs that the vocabulary is divided into."""
    G = math.gcd(cfg.vocab_size, RUNS)
    return G, cfg.vocab_size // G


def _fold(cfg, add, carry):
    """`add(carry, at, size)` over all blocks; the last one may be smaller than the others."""
    G, length = _runs(cfg)
    size = min(length, max(1, BLOCK * cfg.d_model // G))
    full, rest = divmod(length, size)
    if rest:  # first, so that a scan's result is the result and is not copied
        carry = add(carry, full * size, rest)
    starts = jnp.arange(full) * size
    return jax.lax.scan(lambda c, at: (add(c, at, size), None), carry, starts)[0]


def _view(cfg, w):
    """The table with its vocabulary axis as [G, run]."""
    G, length = _runs(cfg)
    return w.reshape((G, length, -1) if cfg.tie_embeddings else (-1, G, length))


def _cut(cfg, w, at, size):
    """A block of the table in the compute dtype; cast after the cut, so never as a whole."""
    axis = 1 if cfg.tie_embeddings else 2
    block = jax.lax.dynamic_slice_in_dim(_view(cfg, w), at, size, axis)
    D = w.shape[1] if cfg.tie_embeddings else w.shape[0]
    w_CD = block.reshape(-1, D) if cfg.tie_embeddings else block.reshape(D, -1).T
    return w_CD.astype(jnp.dtype(cfg.compute_dtype))


def _paste(cfg, view, w_CD, at, size):
    """`_view` of a table with a block put where `_cut` takes it from, in place under a scan."""
    G, _ = _runs(cfg)
    block = w_CD.reshape(G, size, -1) if cfg.tie_embeddings else w_CD.T.reshape(-1, G, size)
    axis = 1 if cfg.tie_embeddings else 2
    return jax.lax.dynamic_update_slice_in_dim(view, block.astype(view.dtype), at, axis)


def _hits(cfg, at, size, targets_R):
    """Whether a block's entry is a row's target, [R, C]."""
    G, length = _runs(cfg)
    ids_GX = length * jnp.arange(G)[:, None] + at + jnp.arange(size)[None, :]
    return ids_GX.reshape(1, -1) == targets_R[:, None]


@functools.partial(jax.jit, static_argnames=("cfg", "temperature"))
def score(params, tokens_BT, positions_BT, segments_BT, *, cfg, temperature=1.0):
    """`token_logprobs` compiled without gradients; shardings follow the arguments'."""
    return token_logprobs(params, cfg, tokens_BT, positions_BT, segments_BT, temperature)


@functools.lru_cache(maxsize=8)
def batch_scorer(cfg: config.ModelConfig, temperature: float, sharding: jax.sharding.Sharding):
    """The log-probs of a whole batch in one program, one microbatch at a time.

    (params, tokens, positions, segments, until, places, used) -> logprobs, laid out by
    `sharding`: of the first `used` (traced) of M microbatches, zeros in the others. [M, B, T], or
    those at `places`, [M, B, U]; `until` and `places` are both None or both of a `types.RlBatch`.
    """

    def run(params, tokens_MBT, positions_MBT, segments_MBT, until_MBT, places_MBU, used):
        def add(i, found_MBT):
            *arrays, until_BT = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False),
                (tokens_MBT, positions_MBT, segments_MBT, until_MBT),
            )
            logp_BT, _ = token_logprobs(params, cfg, *arrays, temperature, until_BT=until_BT)
            return jax.lax.dynamic_update_index_in_dim(found_MBT, logp_BT, i, axis=0)

        found_MBT = jax.lax.fori_loop(0, used, add, jnp.zeros(tokens_MBT.shape, jnp.float32))
        if places_MBU is None:
            return found_MBT
        return jnp.take_along_axis(found_MBT, places_MBU, axis=-1)

    return jax.jit(run, out_shardings=sharding)
