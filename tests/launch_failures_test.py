"""TPU scripts against a gcloud that fails: at every call in turn they stop or come again, as
they say, and never delete or create where they could not see what is there."""

import itertools

import pytest

from tests.stand_ins import FAULT, StandIns

RUN = ("--config", "experiments/aster_4b.py", "--workdir", "/mnt/runs/a")
# A pod that is there once it was created, by itself or through the queue, in which a request
# waits for one look before it is granted.
GCLOUD = r"""
what="$3 $4"
case "$what" in
  "tpu-vm create") echo READY >$state ;;
  "queued-resources create") echo WAITING_FOR_RESOURCES >$state ;;
  *delete) rm $state ;;
  *describe)
    if [[ ! -f $state ]]; then
      echo "ERROR: (gcloud.compute.tpus) NOT_FOUND: resource was not found" >&2; exit 1
    fi
    known="$(<$state)"
    if [[ "$3" == queued-resources && "$known" == WAITING_FOR_RESOURCES ]]; then
      echo READY >$state
    fi
    if [[ "$3" == queued-resources && "$known" == READY ]]; then known=ACTIVE; fi
    echo "$known" ;;
esac
"""


def gcloud_of(tmp_path, world):
    made = StandIns(tmp_path, ("gcloud",), world)
    # Packing this checkout takes longer than all the rest.
    (tmp_path / "bin" / "tar").write_text("#!/bin/sh\ncat >/dev/null\n")
    (tmp_path / "bin" / "tar").chmod(0o755)
    return made


@pytest.fixture
def gcloud(tmp_path):
    return gcloud_of(tmp_path, GCLOUD)


def verbs(stand_ins):
    """`create`, `describe`, `machine_run`, ... in the order asked."""
    found = []
    for call in stand_ins.asked():
        remote = call[-1] if call[4] == "ssh" else ""
        inside = [name for name in ("machine_run", "machine_setup", "tar") if name in remote]
        found.append(inside[0] if inside else call[4])
    return found


WHOLE = ["describe", "create", "scp", "tar", "machine_setup", "machine_run"]
QUEUED = ["describe", "create", "describe", "describe", "describe", *WHOLE[2:]]


@pytest.mark.parametrize("queued, order", [("0", WHOLE), ("1", QUEUED)])
def test_resume_comes_again_after_a_fault_of_any_call_but_the_run(gcloud, queued, order):
    ended = gcloud.run("tpu_resume.sh", *RUN, QUEUED=queued)
    assert (ended.returncode, verbs(gcloud)) == (0, order), ended.stderr
    for at, failed in enumerate(order, start=1):
        if queued == "1" and at > len(QUEUED) - len(WHOLE[2:]):
            break  # from there on as without the queue
        ended = gcloud.run("tpu_resume.sh", *RUN, QUEUED=queued, fail_at=at)
        asked = verbs(gcloud)
        assert asked[: at] == order[: at] and "delete" not in asked
        assert asked.count("create") == (2 if failed == "create" else 1)
        if failed == "machine_run":
            assert ended.returncode == 1 and "still there" in ended.stderr
            assert asked[at:] == ["describe"]
        else:
            assert ended.returncode == 0 and asked[-1] == "machine_run", ended.stderr
            assert asked.count("machine_run") == 1


def test_a_preempted_pod_is_replaced_and_the_run_repeated(tmp_path):
    """The first run ends while the pod still says that it is there, and goes a little later."""
    going = GCLOUD.replace("*describe)", f"""*ssh)
    if [[ "$*" == *machine_run* && ! -f {tmp_path}/tried ]]; then
      touch {tmp_path}/tried; echo PREEMPTED >$state; exit 1
    fi ;;
  *describe)""")
    stand_ins = gcloud_of(tmp_path, going)
    ended = stand_ins.run("tpu_resume.sh", *RUN)
    assert ended.returncode == 0, ended.stderr
    assert "the pod is gone" in ended.stderr
    changed = [verb for verb in verbs(stand_ins) if verb in ("create", "delete", "machine_run")]
    assert changed == ["create", "machine_run", "delete", "create", "machine_run"]


@pytest.mark.parametrize(
    "script, arguments, count",
    [("tpu_create.sh", (), 2), ("tpu_setup.sh", (), 3), ("tpu_run.sh", RUN, 1),
     ("tpu_logs.sh", (), 1), ("tpu_delete.sh", (), 1)],
)  # fmt: skip
def test_a_single_step_stops_at_the_call_that_fails(gcloud, script, arguments, count):
    for at in range(1, count + 1):
        ended = gcloud.run(script, *arguments, fail_at=at)
        assert ended.returncode != 0 and FAULT in ended.stderr
        assert len(gcloud.asked()) == at


def _pod_that(tmp_path, answer):
    """A pod that is always READY, and whose run ends as `answer` says."""
    return gcloud_of(tmp_path, f"""
[[ "$4" == describe ]] && echo READY
if [[ "$*" == *machine_run* ]]; then {answer}; fi""")


@pytest.mark.parametrize("code, why", [(143, "told to go"), (255, "connection was lost")])
def test_a_run_that_was_told_to_go_or_lost_comes_again(tmp_path, code, why):
    first = f'if [[ ! -f {tmp_path}/tried ]]; then touch {tmp_path}/tried; exit {code}; fi'
    stand_ins = _pod_that(tmp_path, first)
    ended = stand_ins.run("tpu_resume.sh", *RUN)
    assert ended.returncode == 0 and why in ended.stderr
    assert verbs(stand_ins).count("machine_run") == 2


def test_every_wait_has_an_end(tmp_path):
    stand_ins = _pod_that(tmp_path, "exit 143")
    ended = stand_ins.run("tpu_resume.sh", *RUN, MAX_ATTEMPTS="3")
    assert ended.returncode == 1 and "gave up after 3 attempts" in ended.stderr
    assert verbs(stand_ins).count("machine_run") == 3

    waiting = StandIns(tmp_path / "queue", ("gcloud",), "echo WAITING_FOR_RESOURCES")
    ended = waiting.run("tpu_create.sh", QUEUED="1", QUEUE_WAIT_S="1", RETRY_S="0.3")
    assert ended.returncode == 1 and "stays in the queue" in ended.stderr
    assert ended.stdout.count("is WAITING_FOR_RESOURCES") == 1  # said once, not at every look
    assert set(verbs(waiting)) == {"describe"}


def test_a_pod_that_cannot_be_set_up_is_given_up(tmp_path):
    stand_ins = gcloud_of(tmp_path, """
[[ "$4" == describe ]] && echo READY
[[ "$4" != scp ]]""")
    ended = stand_ins.run("tpu_resume.sh", *RUN, SETUP_ATTEMPTS="2")
    assert ended.returncode == 1 and "could not be set up, 2 times" in ended.stderr
    assert verbs(stand_ins) == ["describe", "scp"] * 2


@pytest.mark.parametrize(
    "queued, state, then",
    [
        ("0", "PREEMPTED", ["delete", "create"]),
        ("0", "TERMINATED", ["delete", "create"]),
        ("1", "SUSPENDED", ["delete", "create"]),
        ("1", "FAILED", ["delete", "create"]),
        *itertools.product("01", ["STOPPED", "REPAIRING", "DELETING", "SUSPENDING"], [[]]),
        ("0", "CREATING", []),
    ],
)
def test_only_a_pod_that_never_comes_back_is_replaced(tmp_path, queued, state, then):
    stand_ins = gcloud_of(tmp_path, f"""
if [[ "$4" == describe ]]; then
  if [[ -f $state ]]; then echo SUSPENDED; else echo {state}; fi
fi
[[ "$4" == create ]] && touch $state; true""")
    ended = stand_ins.run("tpu_create.sh", QUEUED=queued)
    asked = [verb for verb in verbs(stand_ins) if verb != "describe"]
    assert asked == then
    if not then:
        assert ended.returncode == 1 and f"is {state}" in ended.stderr
    kind = {call[3] for call in stand_ins.asked()}
    assert kind == {"queued-resources" if queued == "1" else "tpu-vm"}


def test_resume_asks_for_the_workdir_before_a_pod_is_paid_for(gcloud):
    ended = gcloud.run("tpu_resume.sh", "--config", "experiments/aster_4b.py")
    assert ended.returncode == 2 and "--workdir" in ended.stderr
    assert gcloud.asked() == []
