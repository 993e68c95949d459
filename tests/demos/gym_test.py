"""Families of reasoning-gym beside ours: splits, the same problems always, clear refusals."""

import collections
import importlib.util
import json

import pytest

from aster_jax import config, pools
from aster_jax.demos import families, gym
from aster_jax.errors import InputError
from aster_jax.lifetime import changes
from tests import smoke_run

REASON = "reasoning-gym is an optional extra and not installed"
NAMES = ("rg:chain_sum", "prod", "rg:ransom_note")  # the last follows the order of a set


@pytest.fixture(scope="module")
def library():
    pytest.importorskip("reasoning_gym", reason=REASON)


def test_splits_share_no_question_and_families_take_turns(library):
    by_split = {s: families.problems(NAMES, s, 24, 0, 2) for s in families.SPLITS}
    assert len({p.question for found in by_split.values() for p in found}) == 96
    assert [p.family for p in by_split["train"][:4]] == [*NAMES, NAMES[0]]
    assert all(p.scorer == "" for p in by_split["train"] if p.family == "prod")
    assert all(p.scorer.startswith(p.family) for p in by_split["train"] if gym.is_own(p.family))


def test_the_same_problems_whenever_they_are_made(library):
    first = families.problems(NAMES, "train", 30, 3, 2)
    gym.drawn.cache_clear()  # as another process would
    assert families.problems(NAMES, "train", 12, 3, 2) == first[:12]
    assert families.problems(NAMES, "train", 12, 4, 2) != first[:12]


def test_options_make_other_problems(library):
    name = "rg:chain_sum?min_terms=2&max_terms=2&max_digits=1"
    found = families.problems((name,), "heldout", 8, 0, 2)
    assert all(len(p.question) < 80 and len(p.answer) <= 2 for p in found)
    assert all(p.family == name and p.id.startswith(name) for p in found)


def test_a_split_that_is_exhausted_says_so(library, monkeypatch):
    monkeypatch.setattr(families, "TRIES_PER_PROBLEM", 60)
    with pytest.raises(InputError, match="no more than .* different questions.*give it options"):
        families.problems(("rg:coin_flip?min_trials=3&max_trials=3",), "probe", 50, 0, 2)


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("rg:chain_som", "did you mean chain_sum"),
        ("rg:chain_sum?terms=3", "its options are allow_negation, max_digits, max_terms"),
        ("rg:chain_sum?seed=3", "must not set seed"),
        ("rg:chain_sum?max_terms", "NAME.KEY=VALUE"),
        ("rg: gcd", "must be rg:NAME"),
        ("rg:", "must be rg:NAME"),
        ("rg:graph_color", "gives no answer of its own"),
    ],
)
def test_bad_families_are_one_sentence(library, family, says):
    with pytest.raises(InputError, match=says):
        families.problems((family,), "train", 2, 0, 2)


def test_without_the_package_its_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "reasoning_gym" else find(n))
    gym.drawn.cache_clear()
    with pytest.raises(InputError, match=r"pip install \"aster_jax\[reasoning_gym\]\""):
        families.problems(("rg:gcd",), "train", 2, 0, 2)


def test_the_expert_has_no_script_for_them():
    c = config.default()
    c.problems.families = ("prod", "rg:gcd")
    with pytest.raises(InputError, match="'rg:gcd' has no solution written down; .*endpoint"):
        pools.demos(c, 4)


def test_stating_the_answer_needs_no_script(library):
    c = config.default()
    c.problems.families, c.demos.style = ("rg:gcd",), "direct"
    assert len(pools.demos(c, 4)) == len(pools.taught(c, changes.left_out(c), 4)) == 4


def test_another_version_of_the_library_is_another_experiment(monkeypatch):
    c = config.default()
    assert "problems.reasoning_gym" not in changes.determining(c, "rl1")
    c.problems.families = ("rg:gcd",)
    monkeypatch.setattr(gym, "version", lambda: "0.1.25")
    for stage in ("demos", "rl1", "rl2"):
        assert changes.determining(c, stage)["problems.reasoning_gym"] == "0.1.25"
    assert "problems.reasoning_gym" not in changes.determining(c, "sft")


@pytest.mark.slow
def test_a_run_from_demonstrations_to_its_report_on_these_families(library, tmp_path):
    """The expert states answers, as it has no script; RL and evaluation are judged by the library."""
    sums = "rg:chain_sum?min_terms=2&max_terms=2&max_digits=1"
    keys = {
        "problems.families": (sums, "rg:gcd?max_value=20"), "demos.style": "direct",
        "demos.min_calls": 0, "sft.rows": 8, "problems.num_heldout": 8, "problems.suffix": " Box the answer.",
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    code, out, err, _ = smoke_run.launch(tmp_path / "run", *flags, limit_s=1800)
    assert code == 0, f"{out}\n{err}"
    episodes = [
        json.loads(line) for path in sorted((tmp_path / "run").glob("rl?/episodes/*.jsonl"))
        for line in path.read_text().splitlines()
    ]  # fmt: skip
    assert {e["family"] for e in episodes} == set(keys["problems.families"])
    verdicts = collections.Counter(e["verdict"] for e in episodes)
    print(verdicts, smoke_run.metrics(tmp_path / "run")[-1])
    assert verdicts["exact"] > 0 and verdicts["wrong"] > 0
    assert not [v for v in verdicts if v.startswith("verifier_")]
    assert all(e["reward"] == (e["verdict"] in ("exact", "equivalent")) for e in episodes)
    assert any(m["stage"] == "rl1" and m["rl/updates"] for m in smoke_run.metrics(tmp_path / "run"))
    # The version of the library is part of what the run is: another one would change it.
    began = json.loads((tmp_path / "run" / "rl1" / "began.json").read_text())
    assert began["keys"]["problems.reasoning_gym"] == gym.version() != ""
