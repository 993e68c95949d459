"""Which checkpoints stay: by hand, and whenever it is asked."""

from hypothesis import given
from hypothesis import strategies as st

from aster_jax.train import retention


def test_retained_by_hand():
    keep = retention.Keep(last=2, every=30, best=True)
    scores = {10: 0.5, 20: 0.7, 40: 0.7, 50: 0.1}
    assert retention.retained([10, 20, 30, 40, 50, 60, 70], scores, keep) == {30, 40, 60, 70}
    assert retention.retained([70, 10, 20], scores, retention.Keep(1)) == {70}
    assert retention.retained([10, 20], {99: 1.0}, retention.Keep(1, best=True)) == {20}
    assert retention.retained([], {}, keep) == set()


@given(
    st.sets(st.integers(0, 60)),
    st.dictionaries(st.integers(0, 60), st.sampled_from([0.0, 0.5, 1.0])),
    st.integers(1, 4), st.integers(0, 7), st.booleans(),
)  # fmt: skip
def test_what_stays_does_not_depend_on_when_it_is_asked(steps, scores, last, every, best):
    """Deleting after each save leaves what deleting once at the end would."""
    keep = retention.Keep(last, every, best)
    there = set()
    for one in sorted(steps):
        there = retention.retained([*there, one], scores, keep)
    assert there == retention.retained(sorted(steps), scores, keep)
    assert max(steps, default=0) in there or not steps
