"""Where a stage stands: lineage, steps in a row that could not be used, and giving up."""

import pytest

from aster_jax import config
from aster_jax.errors import GaveUp
from aster_jax.rl import progress


def keys(**more):
    c = config.default()
    for name, value in more.items():
        c.rl[name] = value
    return config.rl_stage(c, "rl1")


def test_steps_that_could_not_be_used_are_counted_in_a_row():
    at = progress.Progress()
    for why_not, expected in (("lost", 1), ("lost", 2), ("", 0), ("lost", 1)):
        at = progress.after(at, {}, why_not)
        assert at.unusable == expected
    assert at.step == 4


def test_it_gives_up_after_so_many_in_a_row_and_says_why():
    at, c = progress.Progress(), keys(max_unusable=3)
    for _ in range(2):
        at = progress.after(at, {}, "16 of 16 trajectories were lost (the tool)")
        progress.give_up(at, c, "rl1", "lost")
    at = progress.after(at, {}, "lost")
    with pytest.raises(GaveUp, match="rl1 ends at step 3: 3 steps in a row .*because lost.*goes on"):
        progress.give_up(at, c, "rl1", "lost")


def test_lineage_is_of_all_updates_so_far():
    """Two policies have the same number only if every update's numbers were the same."""
    a = b = progress.Progress()
    for loss in (0.1, 0.2):
        a = progress.after(a, {"rl/loss": loss, "rl/grad_norm": 1.0, "time/update_s": 3.0}, "")
        b = progress.after(b, {"rl/loss": loss, "rl/grad_norm": 1.0, "time/update_s": 9.0}, "")
    assert progress.ended(a) == progress.ended(b) and a.lineage
    c = progress.after(a, {"rl/loss": 0.3}, "")
    d = progress.after(b, {"rl/loss": 0.30000001}, "")
    assert c.lineage != d.lineage


def test_what_a_checkpoint_says_is_enough_to_go_on():
    for at in (progress.Progress(7, 2, 99), progress.after(progress.Progress(), {"rl/loss": 1.0}, "lost")):
        assert progress.Progress(**progress.position(at)) == at


def test_seconds_are_told_by_part_and_taken_out_of_the_rest():
    values = {"rl/loss": 1.0, "old_logprobs_s": 2.0, "update_s": 3.0}
    found = progress.seconds({"phase_s": 5.0, "verify_s": 0.5}, 0.25, values)
    assert found == {
        "time/rollout_s": 5.0, "time/verify_s": 0.5, "time/write_s": 0.25,
        "time/old_logprobs_s": 2.0, "time/update_s": 3.0,
    }  # fmt: skip
    assert values == {"rl/loss": 1.0}
