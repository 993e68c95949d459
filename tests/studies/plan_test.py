"""Members of a study: each a config of its own, none that could not run."""

import pytest

from aster_jax import config
from aster_jax.errors import InputError
from aster_jax.studies import plan


def study(**changes):
    c = config.default()
    c.name = changes.pop("name", "s")
    c.study.variants = (
        {"name": "start", "sft.steps": 7},
        {"name": "few", "rl1.max_calls": 2},
        {"name": "many", "rl1.max_calls": 6, "stages": ["demos", "sft", "rl1"]},
    )
    c.study.seeds = (3, 5)
    for key, value in changes.items():
        c.study[key] = value
    return c


def test_every_variant_with_every_seed():
    c = study()
    assert plan.is_study(c) and not plan.is_study(config.default())
    assert [m.path for m in plan.members(c)] == [
        "start/seed_3", "few/seed_3", "many/seed_3", "start/seed_5", "few/seed_5", "many/seed_5",
    ]  # fmt: skip
    assert plan.bases(c) == []


def test_bases_are_made_once_and_are_not_compared():
    c = study(base=("start", "few"))
    assert [(m.variant, m.seed) for m in plan.bases(c)] == [("start", 3), ("few", 3)]
    assert {m.variant for m in plan.members(c)} == {"many"}


def test_a_member_differs_in_what_its_variant_says():
    c = study()
    many = plan.config_of(c, plan.members(c)[5])
    assert (many.seed, many.rl1.max_calls, many.stages) == (5, 6, ("demos", "sft", "rl1"))
    assert many.sft.steps == c.sft.steps and not plan.is_study(many)
    assert many.model.source == "scratch"
    few = plan.config_of(c, plan.members(c)[1], "elsewhere")
    assert few.model.source == "elsewhere"
    assert (c.seed, c.rl1.max_calls, c.model.source) == (0, 8, "scratch")  # left as it was


@pytest.mark.parametrize("changes, says", [
    ({"seeds": ()}, "study.seeds"),
    ({"at_once": 0}, "study.at_once=0"),
    ({"seeds": (1, 1)}, "each seed once"),
    ({"base": ("start", "nobody")}, "nobody"),
    ({"variants": ({"rl1.steps": 1},)}, "name"),
    ({"variants": ({"name": "a"}, {"name": "a"})}, "each once"),
    ({"variants": ({"name": "../a"},)}, "letters"),
    ({"variants": ({"name": "a", "rl1.max_cals": 3},)}, "rl1.max_calls"),
    ({"variants": ({"name": "a", "rl1.steps": "three"},)}, "rl1.steps"),
    ({"variants": ({"name": "a", "rl.group": 1},)}, "variant 'a'.*group"),
    ({"variants": ({"name": "a", "seed": 3},)}, "seeds are study.seeds"),
    ({"variants": ("a",)}, "dict"),
    *(({"seeds": (0, seed)}, "study.seeds has .*whole numbers from 0 to 2147483647")
      for seed in ("x", 1.5, [1], -1, 2**63, None, True)),
    ({"at_once": None}, "study.at_once=None"),
    ({"at_once": True}, "study.at_once=True"),
    ({"seeds": None}, "study.seeds=None"),
    ({"base": ({"name": "start"},)}, "study.base has"),
    ({"base": ("start", "start")}, "each variant once"),
    ({"base": ("start", "few", "many")}, "leaves no variant to compare"),
    ({"name": ""}, "name is empty"),
    ({"variants": ({"name": "a", 5: 3},)}, "changes 5; keys are names"),
    ({"variants": ({"name": "a", "stages": ()},)}, "'a' has stages=().*nothing to compare"),
    ({"variants": ({"name": "a", "stages": ("demos",)}, {"name": "b"}), "base": ("a",)},
     "'a' is a base .*trains nothing"),
    ({"variants": ({"name": "a", "study.seeds": (1,)},)}, "study.seeds', which is of all variants"),
    *(({"variants": ({"name": name},)}, "a file of its own")
      for name in ("study.md", "study.json.partial", "LOCK", "compiled", "a-seed_0.txt")),
    ({"variants": ({"name": "x" * 101},)}, "100 at most"),
])  # fmt: skip
def test_what_cannot_work_is_named(changes, says):
    c = study(**changes)
    with pytest.raises(InputError, match=says):
        for member in [*plan.bases(c), *plan.members(c)]:
            plan.config_of(c, member)
