"""A phase's episodes on disk: torn lines, threads, kills, full disks, and the final file."""

import concurrent.futures
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.rollout import journal

RECORDS = [{"problem_id": f"p{i}", "text": "a\n\u2028\ud800\0é" * i} for i in range(4)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rl1" / "episodes_00003.jsonl"


def partial(path):
    return path.with_name(path.name + ".partial")


def test_what_was_added_is_read_until_it_is_sealed(path):
    first = journal.Journal(path)
    assert first.read() == [] and not path.parent.exists()
    for record in RECORDS:
        first.add(record)
    assert partial(path).read_bytes().count(b"\n") == 4  # before anything is closed
    assert first.read() == journal.Journal(path).read() == RECORDS
    assert not path.exists()
    first.seal(RECORDS[::-1])
    assert os.listdir(path.parent) == [path.name]
    assert first.read() == journal.Journal(path).read() == RECORDS[::-1]
    assert [json.loads(line) for line in path.read_text().splitlines()] == RECORDS[::-1]


def test_what_comes_after_the_end_is_not_written(path):
    """A verdict that nobody waited for any more: sealed by this process, or by another one."""
    first, second = journal.Journal(path), journal.Journal(path, 1)
    second.add(RECORDS[1])
    second.close()
    first.seal(RECORDS[:2])
    for one in (first, second):
        one.add(RECORDS[2])
    assert os.listdir(path.parent) == [path.name] and first.read() == RECORDS[:2]
    first.discard()
    first.add(RECORDS[3])  # of a phase that begins anew
    assert first.read() == [RECORDS[3]]


def test_an_empty_phase_is_sealed_too(path):
    journal.Journal(path).seal([])
    assert path.read_text() == "" and journal.Journal(path).read() == []


def test_discard_leaves_nothing_and_a_new_phase_can_begin(path):
    one = journal.Journal(path)
    one.discard()
    one.add(RECORDS[0])
    one.discard()
    assert os.listdir(path.parent) == [] and one.read() == []
    one.add(RECORDS[1])
    assert one.read() == [RECORDS[1]]
    one.seal([RECORDS[1]])
    one.discard()
    assert os.listdir(path.parent) == []


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), junk=st.binary(max_size=12))
def test_torn_and_damaged_ends_are_cut_off(tmp_path_factory, cut, junk):
    """A file cut anywhere, and then anything behind it: whole records stay, adding goes on."""
    path = tmp_path_factory.mktemp("torn") / "e.jsonl"
    lines = [json.dumps(record) + "\n" for record in RECORDS]
    whole = "".join(lines).encode()
    kept = whole[: min(cut, len(whole))]
    partial(path).write_bytes(kept + b"\xff" + junk)  # no record holds this byte
    count = kept.count(b"\n")
    for _ in range(2):
        again = journal.Journal(path)
        assert again.read() == RECORDS[:count]
        assert partial(path).read_bytes() == "".join(lines[:count]).encode()
    partial(path).write_bytes(kept + b"\xff" + junk)
    again = journal.Journal(path)
    again.add({"new": 1})  # without a look first
    assert journal.Journal(path).read() == [*RECORDS[:count], {"new": 1}]


def test_many_threads_write_whole_lines(path):
    one = journal.Journal(path)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: one.add({"i": i, "text": "x" * (i * 97 % 9000)}), range(400)))
    read = one.read()
    assert sorted(r["i"] for r in read) == list(range(400))
    assert all(len(r["text"]) == r["i"] * 97 % 9000 for r in read)


WRITER = """
import sys
from aster_jax.rollout import journal
one = journal.Journal(sys.argv[1])
for i in range(10**9):
    one.add({"i": i, "text": "x" * 3000})
"""


def test_a_killed_process_loses_at_most_the_line_it_was_at(path):
    root = pathlib.Path(__file__).parents[2]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=root)
    try:
        limit = time.monotonic() + 60
        while not (partial(path).exists() and partial(path).stat().st_size > 300_000):
            assert time.monotonic() < limit and writer.poll() is None
            time.sleep(0.01)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    there = partial(path).read_bytes().count(b"\n")
    read = journal.Journal(path).read()
    assert [r["i"] for r in read] == list(range(there)) and there >= 90


def test_a_line_that_cannot_be_written_leaves_no_part(path):
    """The kernel takes the first part of the line and refuses the rest, as a full disk does."""
    one = journal.Journal(path)
    one.add(RECORDS[0])
    before = partial(path).read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, old[1]))
    try:
        with pytest.raises(OSError):
            one.add(RECORDS[3])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert partial(path).read_bytes() == before
    one.add(RECORDS[2])
    assert one.read() == [RECORDS[0], RECORDS[2]]


def test_records_that_are_no_json_leave_the_file_alone(path):
    one = journal.Journal(path)
    one.add(RECORDS[0])
    with pytest.raises(TypeError):
        one.add({"x": object()})
    assert one.read() == [RECORDS[0]]


def test_every_process_has_lines_of_its_own_and_the_first_reads_seals_and_forgets_for_all(path):
    owners = [journal.Journal(path, i) for i in (0, 1, 12)]
    beside = path.with_name(path.name.replace("e", "other", 1))
    other = journal.Journal(beside)
    other.add({"mine": 0})
    for i, one in enumerate(owners):
        one.add({"from": i})
    with open(path.with_name(path.name + ".1.partial"), "ab") as file:
        file.write(b'{"torn')
    # Read by a run of any number of processes: those there were are found.
    assert sorted(r["from"] for r in journal.Journal(path).read()) == [0, 1, 2]
    owners[1].close()
    owners[0].seal([{"all": 1}])
    assert owners[0].read() == [{"all": 1}] == journal.Journal(path, 5).read()
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, beside.name + ".partial"])
    journal.Journal(path, 3).add({"late": 1})
    owners[0].discard()
    assert [p.name for p in path.parent.iterdir()] == [beside.name + ".partial"]
