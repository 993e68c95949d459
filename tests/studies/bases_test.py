"""Bases of a study: weights that are always those of the steps that the config asks for."""

import json

import pytest

from aster_jax.errors import InputError
from aster_jax.studies import bases
from tests.studies import made_member


@pytest.fixture(autouse=True)
def exported(monkeypatch):
    """In place of an export: a directory that says which steps it is of."""
    def export(path, stage, out, step, dtype):
        out.mkdir()
        done = json.loads((path / stage / "DONE.json").read_text())
        (out / "config.json").write_text(f"{stage} {done['step']}")

    monkeypatch.setattr(bases.export, "export", export)


def study(steps=14):
    c = made_member.study(base=("b1", "b2"))
    base = {"stages": ("demos", "sft")}
    c.study.variants = (
        {"name": "b1", **base}, {"name": "b2", **base, "sft.steps": steps}, {"name": "a"},
    )  # fmt: skip
    return c


def longer(c, path):
    """A run that goes on where its config asks for more steps."""
    made_member.play(c, path, "sft")
    began = json.loads((path / "sft" / "began.json").read_text())
    began["keys"]["sft.steps"] = c.sft.steps
    (path / "sft" / "began.json").write_text(json.dumps(began))
    (path / "sft" / "DONE.json").write_text(json.dumps({"step": c.sft.steps}))


def test_weights_are_exported_once_and_again_when_the_base_got_longer(tmp_path):
    for steps in (14, 14, 20):
        bases.make(study(steps), tmp_path, longer, lambda text: None)
        found = bases.weights(study(steps), tmp_path)
        assert found == str(tmp_path / "b2" / "weights")
        assert (tmp_path / "b2" / "weights" / "config.json").read_text() == f"sft {steps}"
    (tmp_path / "b2" / "weights.json").unlink()  # a kill between the weights and their note
    (tmp_path / "b2" / "weights" / "config.json").write_text("sft 3")
    bases.make(study(20), tmp_path, longer, lambda text: None)
    assert (tmp_path / "b2" / "weights" / "config.json").read_text() == "sft 20"


def test_a_base_that_something_has_begun_from_stays_what_it_is(tmp_path):
    played = []

    def play(c, path):
        played.append(path.name)
        longer(c, path)

    bases.make(study(), tmp_path, play, lambda text: None)
    made_member.play(study(), tmp_path / "a" / "seed_0", "demos")
    played.clear()
    with pytest.raises(InputError, match="base 'b2' would become .*sft.steps: 14 -> 20.* a/seed_0 has begun"):
        bases.make(study(20), tmp_path, play, lambda text: None)
    assert played == ["b1"]
    bases.make(study(), tmp_path, play, lambda text: None)


def test_a_member_alone_is_told_of_weights_that_are_not_its_base_s(tmp_path):
    with pytest.raises(InputError, match="b2/weights is not there"):
        bases.weights(study(), tmp_path)
    bases.make(study(), tmp_path, longer, lambda text: None)
    with pytest.raises(InputError, match="sft.steps: 14 -> 20.*--member=base makes it anew"):
        bases.weights(study(20), tmp_path)
