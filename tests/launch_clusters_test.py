"""SLURM and GKE: what their scripts ask for, what they do where a call fails, and the manifest."""

import json
import re

import pytest

from tests.stand_ins import FAULT, ROOT, StandIns

RUN = ("--config", "experiments/aster_4b.py", "--workdir", "/mnt/runs/a b", "--config.seed=2")


@pytest.fixture
def sbatch(tmp_path):
    return StandIns(tmp_path, ("sbatch",), "true")


def submitted(stand_ins, tmp_path, *arguments, **environment):
    ended = stand_ins.run("slurm_run.sh", *arguments, SLURM_LOGS=str(tmp_path / "l"), **environment)
    assert ended.returncode == 0, ended.stderr
    ((_, *asked),) = stand_ins.asked()
    return asked


def value(asked, flag):
    return asked[asked.index(flag) + 1]


@pytest.mark.parametrize("nodes, gpus, tasks, cpus", [(1, 1, 1, 8), (1, 8, 1, 64), (4, 8, 8, 8)])
def test_slurm_gives_one_process_all_devices_of_a_node_or_each_of_several_one(
    sbatch, tmp_path, nodes, gpus, tasks, cpus
):
    asked = submitted(sbatch, tmp_path, *RUN, NODES=str(nodes), GPUS_PER_NODE=str(gpus))
    assert value(asked, "--nodes") == str(nodes)
    assert value(asked, "--ntasks-per-node") == str(tasks)
    assert value(asked, "--gpus-per-node") == str(gpus)
    assert value(asked, "--cpus-per-task") == str(cpus)
    assert "--requeue" in asked and value(asked, "--open-mode") == "append"
    at = asked.index(str(ROOT / "launch" / "slurm_job.sh"))
    assert asked[at + 1 :] == list(RUN)


def test_slurm_gives_notice_in_time_for_the_run_to_save(sbatch, tmp_path):
    from aster_jax import config

    notice = value(submitted(sbatch, tmp_path, *RUN), "--signal")
    name, _, seconds = notice.partition("@")
    assert name == "TERM" and int(seconds) > config.default().notice_s


def test_slurm_refuses_what_cannot_be_and_tells_when_sbatch_fails(sbatch, tmp_path):
    ended = sbatch.run("slurm_run.sh", *RUN, NODES="two")
    assert ended.returncode == 2 and "'two'" in ended.stderr and sbatch.asked() == []
    ended = sbatch.run("slurm_run.sh", "--config", "x.py")
    assert ended.returncode == 2 and "--workdir" in ended.stderr
    ended = sbatch.run("slurm_run.sh", *RUN, fail_at=1, SLURM_LOGS=str(tmp_path / "l"))
    assert ended.returncode == 1 and FAULT in ended.stderr
    printed = sbatch.run("slurm_run.sh", *RUN, DRY_RUN="1")
    assert printed.returncode == 0 and sbatch.asked() == []
    assert "sbatch --job-name aster" in printed.stdout


def job(tmp_path, code, state="RUNNING"):
    return StandIns(tmp_path, ("srun", "squeue", "scontrol"), f"""
case "${{0##*/}}" in
  srun) exit {code} ;;
  squeue) echo {state} ;;
esac""")


@pytest.mark.parametrize("code", [0, 1, 137])
def test_a_slurm_job_ends_as_its_run_ends(tmp_path, code):
    stand_ins = job(tmp_path, code)
    ended = stand_ins.run("slurm_job.sh", *RUN, SLURM_JOB_ID="7", VENV="v")
    assert ended.returncode == code
    ((*command,),) = stand_ins.asked()
    assert command == [
        "srun", "--kill-on-bad-exit=0", "v/bin/python", "-u", "-m", "aster_jax.main", *RUN,
    ]  # fmt: skip


def test_a_slurm_job_that_was_told_to_go_puts_itself_back(tmp_path):
    stand_ins = job(tmp_path, 143)
    ended = stand_ins.run("slurm_job.sh", *RUN, SLURM_JOB_ID="7")
    assert ended.returncode == 0
    assert [call[0] for call in stand_ins.asked()] == ["srun", "squeue", "scontrol"]
    assert stand_ins.asked()[-1] == ["scontrol", "requeue", "7"]
    for at, said in ((1, FAULT), (2, "does not tell"), (3, "not put back")):
        ended = stand_ins.run("slurm_job.sh", *RUN, SLURM_JOB_ID="7", fail_at=at)
        assert ended.returncode == (1 if at == 1 else 143) and said in ended.stderr
        assert len(stand_ins.asked()) == at


@pytest.mark.parametrize("state", ["COMPLETING", "PREEMPTED", "''"])
def test_a_cancelled_or_preempted_slurm_job_is_left_to_slurm(tmp_path, state):
    stand_ins = job(tmp_path, 143, state)
    ended = stand_ins.run("slurm_job.sh", *RUN, SLURM_JOB_ID="7")
    assert ended.returncode == 143 and "left to SLURM" in ended.stdout
    assert [call[0] for call in stand_ins.asked()] == ["srun", "squeue"]


def test_a_slurm_job_does_not_come_again_for_ever(tmp_path):
    stand_ins = job(tmp_path, 143)
    ended = stand_ins.run(
        "slurm_job.sh", *RUN, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="5", MAX_ATTEMPTS="5"
    )
    assert ended.returncode == 143 and "5 times" in ended.stderr
    assert [call[0] for call in stand_ins.asked()] == ["srun"]


CLUSTER = r"""
case "$1" in
  get) [[ -f $state ]] && cat $state; true ;;
  create) cat >"${state%/*}/manifest" ;;
esac
"""


def kubectl(tmp_path, found=""):
    before = f"[[ $1 == get ]] && echo {found}\n" if found else ""
    return StandIns(tmp_path, ("kubectl",), before + CLUSTER)


def test_gke_makes_the_job_set_and_stops_at_a_call_that_fails(tmp_path):
    stand_ins = kubectl(tmp_path)
    ended = stand_ins.run("gke_run.sh", *RUN, IMAGE="r/a")
    assert ended.returncode == 0 and "kubectl logs" in ended.stdout
    assert [call[1] for call in stand_ins.asked()] == ["get", "create"]
    assert "kind: JobSet" in (tmp_path / "manifest").read_text()
    for at in (1, 2):
        ended = stand_ins.run("gke_run.sh", *RUN, IMAGE="r/a", fail_at=at)
        assert ended.returncode != 0 and FAULT in ended.stderr and len(stand_ins.asked()) == at


@pytest.mark.parametrize("state, calls", [("Failed", ["get", "delete", "create"]), ("", ["get"])])
def test_gke_replaces_a_job_set_that_has_ended_and_no_other(tmp_path, state, calls):
    stand_ins = kubectl(tmp_path, f"aster/{state}")
    ended = stand_ins.run("gke_run.sh", *RUN, IMAGE="r/a")
    assert [call[1] for call in stand_ins.asked()] == calls
    assert (ended.returncode == 0) == bool(state)
    if state:
        ended = stand_ins.run("gke_run.sh", *RUN, IMAGE="r/a", fail_at=2)
        assert ended.returncode != 0 and len(stand_ins.asked()) == 2


def manifest(tmp_path, *arguments, **environment):
    yaml = pytest.importorskip("yaml")
    stand_ins = StandIns(tmp_path, (), "")
    ended = stand_ins.run("gke_manifest.sh", *arguments, **{"IMAGE": "r/a", **environment})
    assert ended.returncode == 0, ended.stderr
    return yaml.safe_load(ended.stdout)


def test_the_manifest_has_a_pod_for_every_host_and_all_its_arguments(tmp_path):
    words = (*RUN, "--config.stages=('rl1', \"rl2\")", "--x=\\ $(HOME) é")
    made = manifest(tmp_path, *words, GKE_TOPOLOGY="2x4x4")
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (slice_,) = made["spec"]["replicatedJobs"]
    spec = slice_["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 8  # 32 chips, 4 to a host
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert [a.replace("$$", "$") for a in container["args"]] == list(words)
    assert "$$(HOME)" in container["args"][-1]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert "cloud.google.com/gke-spot" not in json.dumps(manifest(tmp_path / "1", *RUN, SPOT="0"))


def test_a_pod_that_was_told_to_go_restarts_the_set_without_counting(tmp_path):
    made = manifest(tmp_path, *RUN)
    (rule,) = made["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    spec = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    disrupted, told = spec["podFailurePolicy"]["rules"]
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert told["onExitCodes"]["values"] == [143] and told["action"] == "FailJob"
    assert told["onExitCodes"]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
    assert (spec["backoffLimit"], spec["template"]["spec"]["restartPolicy"]) == (0, "Never")


@pytest.mark.parametrize(
    "arguments, environment, said",
    [
        (RUN[:2], {}, "--workdir"),
        ((*RUN[:2], "--workdir", "/tmp/a"), {}, "/mnt/runs"),
        (RUN, {"IMAGE": ""}, "IMAGE"),
        (RUN, {"GKE_TOPOLOGY": "4"}, "GKE_TOPOLOGY=4"),
        (RUN, {"GKE_TOPOLOGY": "2x2x1", "CHIPS_PER_HOST": "8"}, "CHIPS_PER_HOST=8"),
        (RUN, {"MAX_RESTARTS": "x"}, "MAX_RESTARTS=x"),
        (RUN, {"JOBSET_NAME": "a: b"}, "JOBSET_NAME"),
        ((*RUN, "--x=a\nb"), {}, "control character"),
        (RUN, {"CLAIM": "a\nb"}, "control character"),
    ],
)
def test_gke_refuses_what_cannot_be_before_it_asks_the_cluster(
    tmp_path, arguments, environment, said
):
    stand_ins = kubectl(tmp_path)
    ended = stand_ins.run("gke_run.sh", *arguments, **{"IMAGE": "r/a", **environment})
    assert ended.returncode == 2 and said in ended.stderr and stand_ins.asked() == []


def test_the_image_copies_what_is_there():
    text = (ROOT / "launch" / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\S+) (\S+)$", text, re.M)
    assert [a for a, b in copied if a != b or not (ROOT / a).exists()] == []
    assert "launch/machine_setup.sh" in dict(copied)
