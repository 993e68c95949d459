"""Sampling: exact truncated distributions by hand, the draws' statistics, and their keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.rollout import sampling

PROBS = np.array([0.5, 0.25, 0.15, 0.1])
DRAWS = 20_000

draw = jax.jit(sampling.sample, static_argnames="how")


def many(how, probs=PROBS, draws=DRAWS):
    """Tokens, log-probs and entropies of many draws from the same scores."""
    scores = jnp.broadcast_to(jnp.log(jnp.asarray(probs, jnp.float32))[None], (draws, len(probs)))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(draws))
    return [np.asarray(x) for x in draw(scores, keys, jnp.zeros(draws, jnp.int32), how=how)]


@pytest.mark.parametrize(
    "how, expected",
    [
        (sampling.Sampling(), PROBS),
        (sampling.Sampling(temperature=0.5), PROBS**2 / (PROBS**2).sum()),
        (sampling.Sampling(top_k=2), np.array([2 / 3, 1 / 3, 0, 0])),
        (sampling.Sampling(top_k=1), np.array([1, 0, 0, 0])),
        (sampling.Sampling(top_k=4), PROBS),
        (sampling.Sampling(top_k=9), PROBS),
        # 0.5 + 0.25 reach 0.7; 0.5 alone reaches 0.45.
        (sampling.Sampling(top_p=0.7), np.array([2 / 3, 1 / 3, 0, 0])),
        (sampling.Sampling(top_p=0.45), np.array([1, 0, 0, 0])),
        (sampling.Sampling(top_p=0.8), np.array([5 / 9, 2.5 / 9, 1.5 / 9, 0])),
        # At T = 2 the probabilities are as the roots: 0.379, 0.268, 0.208, 0.145.
        (
            sampling.Sampling(temperature=2.0, top_p=0.5),
            np.array([2**0.5, 1, 0, 0]) / (2**0.5 + 1),
        ),
        # First three, then 0.75 of 0.9 = 0.833 of the mass: two stay.
        (sampling.Sampling(top_k=3, top_p=0.8), np.array([2 / 3, 1 / 3, 0, 0])),
    ],
)
def test_the_distribution_is_exact(how, expected):
    tokens, logp, entropy = many(how)
    counts = np.bincount(tokens, minlength=4)
    assert not counts[expected == 0].any()
    # Five standard deviations of a binomial.
    spread = 5 * np.sqrt(expected * (1 - expected) / DRAWS)
    np.testing.assert_array_less(np.abs(counts / DRAWS - expected), spread + 1e-9)
    np.testing.assert_allclose(logp, np.log(expected[tokens]), atol=2e-6)
    # Before truncation: of all four, at the temperature.
    warm = PROBS ** (1 / how.temperature) / (PROBS ** (1 / how.temperature)).sum()
    np.testing.assert_allclose(entropy, -(warm * np.log(warm)).sum(), atol=2e-6)


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([0.0] * 8, np.log(8)),  # all alike
        ([5.0, -1e4, -np.inf, -3e38], 0.0),  # one token has all the mass
        ([0.0, 0.0, -np.inf, -np.inf], np.log(2)),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_entropy_at_the_edges(scores, expected, temperature):
    how = sampling.Sampling(temperature=temperature)
    keys = jax.random.split(jax.random.key(0), 3)
    rows = jnp.broadcast_to(jnp.asarray(scores, jnp.float32), (3, len(scores)))
    entropy = draw(rows, keys, jnp.arange(3), how=how)[2]
    np.testing.assert_allclose(entropy, expected, atol=1e-6)


def test_greedy_takes_the_largest_with_its_plain_log_probability():
    tokens, logp, entropy = many(sampling.Sampling(temperature=0.0), PROBS[::-1], 8)
    assert (tokens == 3).all()
    np.testing.assert_allclose(logp, np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(entropy, 1.2080, atol=5e-5)


def test_ties_at_the_threshold_are_kept():
    tokens, logp, _ = many(sampling.Sampling(top_k=2), np.array([0.4, 0.3, 0.3]))
    assert set(tokens) == {0, 1, 2}
    np.testing.assert_allclose(logp, np.log(np.array([0.4, 0.3, 0.3])[tokens]), atol=2e-6)


def test_a_peaked_row_does_not_lose_its_second_choice():
    """Scores far apart: the threshold search must not stop at its lower bound."""
    scores = jnp.asarray([[0.0, -60.0, -61.0, -200.0]])
    kept = sampling._truncate(jax.nn.log_softmax(scores), lambda keep: keep.sum(-1), 2)
    assert np.isfinite(kept[0, :2]).all() and not np.isfinite(kept[0, 2:]).any()


def test_noise_depends_on_identity_and_position_only():
    scores = jax.random.normal(jax.random.key(1), (64, 12))
    keys = jax.random.split(jax.random.key(2), 64)
    positions = jnp.arange(64)
    tokens, logp, _ = draw(scores, keys, positions, how=sampling.Sampling())
    order = jax.random.permutation(jax.random.key(3), 64)
    moved, moved_logp, _ = draw(scores[order], keys[order], positions[order], how=sampling.Sampling())
    np.testing.assert_array_equal(tokens[order], moved)
    np.testing.assert_allclose(logp[order], moved_logp, rtol=1e-6)
    elsewhere, _, _ = draw(scores, keys, positions + 1, how=sampling.Sampling())
    assert (np.asarray(tokens) != np.asarray(elsewhere)).mean() > 0.3


@pytest.mark.parametrize("how", [sampling.Sampling(), sampling.Sampling(top_k=3)], ids=str)
def test_a_vocabulary_of_many_chunks(how):
    """1,000 tokens, most of them without mass: drawn as often as they are likely."""
    likely = np.array([3, 127, 128, 640, 999])
    probs = np.zeros(1000)
    probs[likely] = [0.1, 0.15, 0.2, 0.25, 0.3]
    expected = probs.copy()
    if how.top_k:
        expected[[3, 127]] = 0
        expected /= expected.sum()
    tokens, logp, entropy = many(how, np.maximum(probs, 1e-30), 5_000)
    assert set(tokens) == set(np.flatnonzero(expected))
    counts = np.bincount(tokens, minlength=1000) / 5_000
    spread = 5 * np.sqrt(expected * (1 - expected) / 5_000)
    np.testing.assert_array_less(np.abs(counts - expected), spread + 1e-9)
    np.testing.assert_allclose(logp, np.log(expected[tokens]), atol=2e-6)
    np.testing.assert_allclose(entropy, -(probs[likely] * np.log(probs[likely])).sum(), atol=2e-6)


def test_the_largest_uniform_number_draws_a_token_with_mass():
    """Mass in a few tokens of a large vocabulary, and draws at both ends of the unit interval."""
    mass = np.zeros((2, 50_000), np.float32)
    mass[:, ::997] = np.random.default_rng(0).random((2, 51)).astype(np.float32) + 0.1
    ends = jnp.asarray([0.0, np.nextafter(np.float32(1), np.float32(0))])
    tokens, total = sampling._draw(jnp.asarray(mass), ends)
    assert tokens.tolist() == [0, 50 * 997]
    np.testing.assert_allclose(total, mass.sum(-1), rtol=1e-6)


draws = jax.jit(sampling._draw)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_next_to_impossible_is_never_drawn(seed):
    """Likely tokens among thousands of 1e-14 and less, at every grid point near their edges.

    Rounded sums put a token of no weight at such an edge now and then, and the number 0,
    one draw in eight million, used to be the first token with any mass.
    """
    rng = np.random.default_rng(seed)
    V = int(rng.choice((130, 1024, 2047)))
    mass = rng.choice(np.array([0, 1e-38, 1e-20, 1e-14], np.float32), V)
    likely = np.sort(rng.choice(V, rng.integers(1, 30), replace=False))
    mass[likely] = rng.dirichlet(np.full(len(likely), 0.5)) + 1e-3
    upto = np.cumsum(mass, dtype=np.float64) / mass.sum(dtype=np.float64)
    steps = np.arange(-8, 9)[None] + np.round(np.array([0, *upto[likely]]) * 2**23)[:, None]
    uniform = np.zeros(30 * 17 + 17, np.float32)
    uniform[: steps.size] = np.clip(steps, 0, 2**23 - 1).ravel() / 2**23
    tokens, _ = draws(np.broadcast_to(mass, (len(uniform), V)), uniform)
    tokens = np.asarray(tokens)
    assert np.isin(tokens, likely).all()
    assert tokens[0] == likely[0]
    # Where it is further from an edge than sums are rounded, the draw is the exact one.
    gap = np.abs(uniform[:, None] - upto[likely][None]).min(axis=1)
    exact = likely[np.minimum(np.searchsorted(upto[likely], uniform, "right"), len(likely) - 1)]
    clear = gap > 2e-6
    np.testing.assert_array_equal(tokens[clear], exact[clear])


def test_zero_stands_for_half_a_step_of_the_grid():
    """A first token of 2^-25 is skipped, one of 2^-23 is what 0 draws."""
    for first, token in ((2.0**-25, 1), (2.0**-23, 0)):
        tokens, _ = draws(np.array([[first, 1 - first]], np.float32), np.zeros(1, np.float32))
        assert tokens.tolist() == [token]


@pytest.mark.parametrize(
    "values",
    [
        dict(temperature=-1.0), dict(top_p=0.0), dict(top_p=1.5), dict(top_k=-1),
        dict(temperature=float("nan")), dict(temperature=float("inf")), dict(temperature=1e-40),
        dict(top_p=float("nan")), dict(top_k=float("nan")), dict(top_k=float("inf")),
        dict(top_k=2.5),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(values):
    with pytest.raises(ValueError, match="give values in these ranges"):
        sampling.Sampling(**values)


WAYS = [
    sampling.Sampling(), sampling.Sampling(0.0), sampling.Sampling(0.5),
    sampling.Sampling(1.0, 0.7), sampling.Sampling(1.0, 1.0, 2), sampling.Sampling(0.7, 0.9, 3),
]  # fmt: skip


def test_rows_that_sample_each_in_their_own_way_do_as_if_all_did():
    scores = jax.random.normal(jax.random.key(3), (len(WAYS) * 40, 300)) * 3
    keys = jax.random.split(jax.random.key(4), len(scores))
    positions = jnp.arange(len(scores))
    ways = [WAYS[i % len(WAYS)] for i in range(len(scores))]
    rows = sampling.Rows(
        jnp.array([w.temperature for w in ways]), jnp.array([w.top_p for w in ways]),
        jnp.array([w.top_k for w in ways]),
    )  # fmt: skip
    mixed = jax.jit(sampling.sample_rows)(scores, keys, positions, rows)
    for j, how in enumerate(WAYS):
        alone = draw(scores, keys, positions, how=how)
        mine = slice(j, None, len(WAYS))
        np.testing.assert_array_equal(mixed[0][mine], alone[0][mine])
        for a, b in zip(mixed[1:], alone[1:], strict=True):
            np.testing.assert_allclose(a[mine], b[mine], atol=2e-6)
