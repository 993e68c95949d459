"""How long a stage still takes: by its last steps, whatever the first ones took."""

import pytest

from aster_jax import pace


def test_the_time_left_is_that_of_the_last_steps():
    seen = pace.Pace()
    assert seen.left_s("sft", 100) is None
    seen.note("sft", 1, 1000.0)  # compiled before
    assert seen.left_s("sft", 100) is None
    seen.note("sft", 2, 1003.0)
    seen.note("sft", 4, 1007.0)
    assert seen.left_s("sft", 10) == pytest.approx(7.0 / 3 * 6)
    assert seen.left_s("rl1", 10) is None
    assert seen.left_s("sft", 4) is None and seen.left_s("sft", 3) is None


def test_a_slow_start_is_forgotten_and_a_stage_begun_again_starts_anew():
    seen = pace.Pace()
    for step in range(1, 60):
        seen.note("rl1", step, (5000.0 if step > 5 else 0.0) + 2.0 * step)
    assert seen.left_s("rl1", 69) == pytest.approx(20.0)
    seen.note("rl1", 3, 9000.0)
    assert seen.left_s("rl1", 69) is None


@pytest.mark.parametrize(
    "left, said",
    [(None, ""), (0.4, "  eta 0 s"), (99.0, "  eta 99 s"), (100.0, "  eta 2 min"),
     (5999.0, "  eta 100 min"), (6000.0, "  eta 1.7 h"), (259_200.0, "  eta 3.0 days")],
)  # fmt: skip
def test_it_is_said_in_the_unit_that_fits(left, said):
    assert pace.text(left) == said
