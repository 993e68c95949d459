"""Stages that are made once for all members alike: whole, recorded, and of the same bits only."""

import json
import os
import shutil

import pytest

from aster_jax.studies import plan, share
from aster_jax.train import metrics
from tests.studies import made_member


def pair(tmp_path, *variants):
    """Configs and workdirs of the members of a study of two variants; the first one is made."""
    c = made_member.study(variants=variants or made_member.study().study.variants)
    made = [(plan.config_of(c, m), tmp_path / m.path) for m in plan.members(c)]
    made_member.play(*made[0])
    return made


def test_demonstrations_and_sft_are_taken_with_their_metrics(tmp_path):
    (_, first), (c, second) = pair(tmp_path)
    assert share.take(c, second, [first]) == {"demos": first, "sft": first}
    for stage in share.SHARED:
        kept = {p.relative_to(first / stage) for p in (first / stage).rglob("*")}
        assert {p.relative_to(second / stage) for p in (second / stage).rglob("*")} - kept == {
            (second / stage / "shared.json").relative_to(second / stage)
        }
        origin = json.loads((second / stage / "shared.json").read_text())["from"]
        assert (second / origin).resolve() == first.resolve()
    assert metrics.lines(second, "sft") == metrics.lines(first, "sft") != []
    assert not metrics.lines(second, "rl1") and not (second / "rl1").exists()
    weights = [p / "sft" / "checkpoints" / f"{c.sft.steps}" / "params" for p in (first, second)]
    assert os.path.samefile(*weights)
    began = [p / "sft" / "began.json" for p in (first, second)]
    assert not os.path.samefile(*began)  # a run writes it again when its stage grows
    shutil.rmtree(first)
    assert weights[1].read_text() == "weights"
    assert share.take(c, second, [first]) == {}


@pytest.mark.parametrize("changed, taken", [
    ({"rl1.steps": 3, "eval.samples": 2}, ["demos", "sft"]),
    ({"sft.steps": 3}, ["demos"]),
    ({"sft.micro_rows": 4}, ["demos"]),  # other sums: other last bits
    ({"demos.count": 9}, []),
    ({"model.show_tool": False}, []),
    ({"rollout.temperature": 0.5}, ["demos", "sft"]),
    ({"rollout.temperature": 0.5, "sft.probe_every": 5}, ["demos"]),
    ({"stages": ("rl1", "eval")}, []),
])  # fmt: skip
def test_what_differs_is_not_taken(tmp_path, changed, taken):
    (_, first), (c, second) = pair(tmp_path, {"name": "a"}, {"name": "b", **changed})
    assert list(share.take(c, second, [first])) == taken


@pytest.mark.parametrize("key, value, is_asked", [
    ("problems.suffix", " Think.", True), ("problems.num_train", 9, False),
    ("problems.num_heldout", 9, False),
])  # fmt: skip
def test_sft_that_ends_by_its_probes_is_another_one_where_they_ask_something_else(
    tmp_path, key, value, is_asked
):
    for every in (0, 5):
        probed = {"sft.probe_every": every}
        variants = ({"name": "a", **probed}, {"name": "b", **probed, key: value})
        (_, first), (c, second) = pair(tmp_path / str(every), *variants)
        expected = ["demos"] if every and is_asked else ["demos", "sft"]
        assert list(share.take(c, second, [first])) == expected


def test_an_old_versions_record_without_digests_is_as_good(tmp_path):
    (_, first), (c, second) = pair(tmp_path)
    for stage in share.SHARED:
        began = json.loads((first / stage / "began.json").read_text())
        (first / stage / "began.json").write_text(json.dumps({**began, "heldout": []}))
    assert list(share.take(c, second, [first])) == ["demos", "sft"]


def test_other_demonstrations_of_the_same_config_are_not_trained_on(tmp_path):
    (_, first), (c, second) = pair(tmp_path)
    made_member.play(c, second, "demos")
    (second / "demos" / "demos.jsonl").write_text("what a teacher said another time\n")
    assert share.take(c, second, [first]) == {}


def test_what_is_not_finished_or_has_begun_is_left_alone(tmp_path):
    (_, first), (c, second) = pair(tmp_path)
    (first / "sft" / "DONE.json").unlink()
    assert list(share.take(c, second, [first])) == ["demos"]
    made_member.play(c, second, "sft")
    (first / "sft" / "DONE.json").write_text("{}")
    assert share.take(c, second, [first]) == {}
    assert not (second / "sft" / "shared.json").exists()


def test_after_a_kill_in_the_middle_it_is_taken_whole(tmp_path):
    (_, first), (c, second) = pair(tmp_path)
    (second / ".sft.partial" / "checkpoints").mkdir(parents=True)
    (second / "metrics.jsonl").write_text((first / "metrics.jsonl").read_text())
    assert list(share.take(c, second, [first])) == ["demos", "sft"]
    assert len(metrics.lines(second, "sft")) == 1
    assert not (second / ".sft.partial").exists()


def test_a_copy_that_fails_leaves_nothing(tmp_path, monkeypatch):
    (_, first), (c, second) = pair(tmp_path)

    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(share.shutil, "copy2", fail)
    assert share.take(c, second, [first]) == {}
    assert not (second / "demos").exists() and not (second / ".demos.partial").exists()
