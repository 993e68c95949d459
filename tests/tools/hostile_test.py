"""The fifty groups of hostile and awkward cells, in the best tier this host gives."""

import sys

import pytest

from tests.tools import suite

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = suite.Bench(tmp_path_factory.mktemp("planted"))
    yield made
    made.close()


@pytest.mark.parametrize("group", suite.FIFTY, ids=lambda group: f"{group.number:02d}")
def test_group(bench, group):
    if bench.tier not in group.tiers:
        pytest.skip(f"group {group.number} claims nothing in tier {bench.tier}")
    bench.run(group)


def test_14_fresh_sessions_have_the_random_streams_of_their_seeds(bench):
    pool = bench.pools["patient"]
    code = (
        "import random, numpy, sympy\n"
        "print(random.random(), numpy.random.rand(), sympy.core.random.rng.random())"
    )
    texts = []
    for seed in (3, 3, 4):
        session = pool.open(seed=seed)
        texts.append(pool.run(session, code).text)
        pool.close(session)
    assert texts[0] == texts[1] != texts[2]


def test_50_a_thread_that_prints_later_reaches_only_its_own_session(bench):
    pool = bench.pools["patient"]
    noisy, quiet = pool.open(seed=0), pool.open(seed=1)
    code = (
        "import threading, time\ndef talk():\n    while True:\n        time.sleep(0.01)\n"
        "        print('noise', flush=True)\nthreading.Thread(target=talk, daemon=True).start()"
    )
    first = pool.run(noisy, code)
    assert first.live_threads == 1
    for _ in range(5):
        assert pool.run(quiet, "import time; time.sleep(0.02); print('quiet')").text == "quiet\n"
    # Stopped between calls: at most what fits in the moments before the freeze is there.
    assert pool.run(noisy, "print('own')").text.count("noise") <= 5
    pool.close(noisy)
    pool.close(quiet)
