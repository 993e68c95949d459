"""What is decided once and told to all; with one process nothing is changed, with three all agree."""


import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_jax import together
from tests import several

WORK = """
import os, sys, time
import jax, numpy as np
from aster_jax import together
from aster_jax.errors import InputError
jax.distributed.initialize(sys.argv[1], num_processes=3, process_id=int(sys.argv[2]))
me = together.index()
assert together.count() == 3 and together.is_first() == (me == 0)

# Process 0 decides, and what it calls meanwhile meets nobody.
inner = lambda: together.once("inner", lambda: together.everybody("alone", [me, together.count()]))
assert together.once("outer", inner) == [[0, 1]] and together.count() == 3
assert together.everybody("who", {"i": me}) == [{"i": 0}, {"i": 1}, {"i": 2}]

# What goes wrong there is raised everywhere, and the sequence goes on.
def wrong(error):
    raise error
for error in (InputError("a=1; use 2"), FileNotFoundError("gone"), ValueError("torn")):
    try:
        together.once("wrong", lambda: wrong(error))
    except (OSError, ValueError) as e:
        assert str(e) == str(error) and (type(e) is type(error) or isinstance(e, OSError)), e
        assert isinstance(e, InputError) == isinstance(error, InputError)
    else:
        raise AssertionError("not raised")

# Others do not begin before the first is through.
began = time.monotonic()
together.first_then_rest("slow", lambda: time.sleep(0.5 if me == 0 else 0))
assert time.monotonic() - began > 0.45

# Records of any length, also in several rounds, and none at all.
for size, round_bytes in ((0, 1 << 26), (10, 1 << 26), (100_000, 1 << 15)):
    together.ROUND_BYTES = round_bytes
    mine = [{"from": me, "ids": tuple(range(size * me))}]
    found = together.exchange("records", mine if me != 1 or size else [])
    assert [len(part) for part in found] == [1, 1 if size else 0, 1]
    assert all(r == {"from": i, "ids": tuple(range(size * i))} for i, p in enumerate(found) for r in p)

# An array of which everyone has a part.
mesh = jax.make_mesh((3,), ("x",))
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
whole = np.arange(12.0).reshape(6, 2)
there = jax.make_array_from_callback(whole.shape, rows, lambda index: whole[index])
assert np.array_equal(together.gather(there), whole)

# Out of step: said, and not taken for an answer to something else.
try:
    together.once("left" if me == 1 else "right", lambda: 0)
    assert me != 1
except RuntimeError as e:
    assert me == 1 and "this one is at 'left', another one at 'right'" in str(e), e
print("fine", flush=True)
"""


def test_three_processes_agree():
    made = several.play(WORK, count=3)
    assert [code for code, *_ in made] == [0, 0, 0], made
    assert all("fine" in out for _, out, _ in made)


def test_one_process_gets_back_what_it_gave():
    value = {"a": (1, 2), 3: object()}  # no JSON: nothing is sent anywhere
    assert together.once("x", lambda: value) is value
    assert together.everybody("x", value)[0] is value
    assert together.exchange("x", [value])[0][0] is value
    assert together.first_then_rest("x", lambda: value) is value
    assert together.meet("x") is None
    assert (together.count(), together.index(), together.is_first(), together.beside()) == (1, 0, True, 1)
    assert np.array_equal(together.gather(jax.numpy.arange(3)), [0, 1, 2])
    with pytest.raises(KeyError):
        together.once("x", lambda: {}["nothing"])


@given(groups=st.lists(st.integers(0, 9)), count=st.integers(1, 5))
def test_groups_are_dealt_whole_and_evenly(groups, count):
    dealt = together.deal(groups, count)
    assert len(dealt) == len(groups)
    owners = {group: {i for g, i in zip(groups, dealt) if g == group} for group in set(groups)}
    assert all(len(who) == 1 for who in owners.values())
    held = [sum(i in who for who in owners.values()) for i in range(count)]
    assert max(held) - min(held) <= 1
    if count == 1:
        assert dealt == [0] * len(groups)
