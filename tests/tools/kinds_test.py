"""The kinds of `kind_cells.py` in every tier this host has, one by one."""

import sys

import pytest

from aster_jax.tools import config
from tests.tools import kind_cells, suite

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")


@pytest.fixture(scope="module", params=config.SAFE_TIERS)
def bench(request, tmp_path_factory):
    suite.start(request.param).close()  # skips where there is no such tier
    made = suite.Bench(tmp_path_factory.mktemp("planted"), request.param)
    yield made
    made.close()


@pytest.mark.parametrize("group", kind_cells.KINDS, ids=lambda group: group.title.replace(" ", "_"))
def test_kind(bench, group):
    if bench.tier in group.tiers:
        bench.run(group)
