"""Where the device's time goes, by hand, and waiting that ends."""

import collections
import concurrent.futures
import time

import numpy as np

from aster_jax.rollout import clock


def test_busy_and_idle_by_hand():
    """Two programs back to back, a gap of 3 s, then one more; the host looks late once."""
    times = iter([4.0, 9.0, 13.0])
    stats = collections.Counter()
    line = clock.Timeline(clock.Clock(lambda: next(times), None), stats)
    first, second, third, last = (np.zeros(1) for _ in range(4))
    line.dispatched("prefill", first, 0.0)
    line.dispatched("decode", second, 1.0)
    line.wait(second)  # the first is seen to end at 4, the second at 9
    assert stats == {"prefill_s": 4.0, "decode_s": 5.0, "device_idle_s": 0.0}
    line.dispatched("prefill", third, 12.0)  # idle for 3
    line.wait(third)  # 13
    assert stats == {"prefill_s": 5.0, "decode_s": 5.0, "device_idle_s": 3.0}
    line.dispatched("decode", last, 20.0)  # and nobody waits for it
    assert stats["device_idle_s"] == 3.0


def test_what_was_waited_for_is_not_waited_for_again():
    """A later program must not be waited for in its place."""
    times = iter([1.0])
    stats = collections.Counter()
    line = clock.Timeline(clock.Clock(lambda: next(times), None), stats)
    first, second = np.zeros(1), np.zeros(1)
    line.dispatched("decode", first, 0.0)
    line.wait(first)  # 1
    line.dispatched("decode", second, 2.0)
    line.wait(first)
    assert stats["decode_s"] == 1.0 and len(line._under_way) == 1


def test_waiting_ends_with_the_first_result_or_the_deadline():
    done, never = concurrent.futures.Future(), concurrent.futures.Future()
    done.set_result(1)
    began = time.monotonic()
    clock.REAL.wait([done, never], 60.0, True)
    clock.REAL.wait([done], 60.0, False)
    clock.REAL.wait([never], 0.05, False)
    clock.REAL.wait([never], -1.0, False)
    assert time.monotonic() - began < 30 and not never.done()
