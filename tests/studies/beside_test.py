"""Members of a study at the same time: real processes that end well, give up, fail and are told to go."""

import os
import sys
import time

import pytest

from aster_jax import errors
from aster_jax.studies import beside


def python(body):
    return lambda place: [sys.executable, "-c", f"place = {place!r}\n{body}"]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_cores_are_dealt_out():
    assert beside.cores(2, (0, 1, 2, 3, 4)) == [{0, 1}, {2, 3}]
    assert beside.cores(3, (4, 7)) == [{4, 7}] * 3


def test_every_member_is_run_with_cores_of_its_own(tmp_path):
    body = "import os, time; print(place, sorted(os.sched_getaffinity(0))); time.sleep(0.3)"
    places = ["a/seed_0", "a/seed_1", "b/seed_0"]
    done = list(beside.play(places, 2, python(body), tmp_path, lambda: False))
    assert sorted(done) == [(place, None) for place in places]
    said = {place: (tmp_path / f"{place.replace('/', '-')}.txt").read_text() for place in places}
    assert all(said[place].startswith(place) for place in places)
    if len(os.sched_getaffinity(0)) > 1:
        assert said["a/seed_0"].split(" ", 1)[1] != said["a/seed_1"].split(" ", 1)[1]


@pytest.mark.parametrize(("own", "seen"), [(None, "glibc.malloc.hugetlb=1"), ("x.y=2", "x.y=2")])
def test_members_are_given_huge_pages_unless_the_user_says_otherwise(tmp_path, monkeypatch, own, seen):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if own:
        monkeypatch.setenv("GLIBC_TUNABLES", own)
    body = "import os; print(os.environ['GLIBC_TUNABLES'])"
    assert list(beside.play(["a"], 1, python(body), tmp_path, lambda: False)) == [("a", None)]
    assert (tmp_path / "a.txt").read_text() == f"{seen}\n"


def test_giving_up_is_a_result(tmp_path):
    body = f"import sys; print('aster_jax: too many', file=sys.stderr); sys.exit({errors.GAVE_UP})"
    ((place, gave_up),) = beside.play(["a/seed_0"], 1, python(body), tmp_path, lambda: False)
    assert (place, str(gave_up)) == ("a/seed_0", "too many")


def test_a_failure_ends_the_others_and_is_told(tmp_path):
    body = (
        "import os, sys, time\n"
        f"open({str(tmp_path)!r} + '/pid-' + place, 'w').write(str(os.getpid()))\n"
        "time.sleep(0.5 if place == 'bad' else 60)\nprint('why it failed')\nsys.exit(1)"
    )
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="bad ended with exit code 1.*\n.*why it failed"):
        list(beside.play(["bad", "good"], 2, python(body), tmp_path, lambda: False))
    assert time.monotonic() - began < 30
    assert gone(int((tmp_path / "pid-good").read_text()))


def test_what_the_user_has_to_mend_is_one_sentence(tmp_path):
    body = "import sys; print('[   0.1 s] run'); sys.exit('aster_jax: rl.lr=3 cannot be')"
    with pytest.raises(errors.InputError) as told:
        list(beside.play(["a/seed_0"], 1, python(body), tmp_path, lambda: False))
    log = tmp_path / "a-seed_0.txt"
    assert str(told.value) == f"a/seed_0: rl.lr=3 cannot be; all it said is in {log}"


def test_told_to_go_it_tells_the_members(tmp_path):
    body = (
        "import signal, sys, time\n"
        "def go(*_):\n    print('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, go)\nprint('ready', flush=True)\ntime.sleep(60)"
    )

    def leaving():
        log = tmp_path / "a.txt"
        return log.exists() and "ready" in log.read_text()

    with pytest.raises(errors.Leaving):
        list(beside.play(["a"], 1, python(body), tmp_path, leaving))
    assert (tmp_path / "a.txt").read_text() == "ready\nsaved\n"


def test_a_member_that_was_told_to_go_ends_the_study_the_same_way(tmp_path):
    with pytest.raises(errors.Leaving):
        list(beside.play(["a"], 1, python("import sys; sys.exit(143)"), tmp_path, lambda: False))
