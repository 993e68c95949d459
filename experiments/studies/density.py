"""RQ2: does it matter how finely a solution is cut into calls?

    python -m aster_jax.main --config experiments/studies/density.py

Hardware: 2 CPU cores. `:small` is made for 15 minutes, the default took 48 beside other work
(`--config.study.at_once=2`), `:night` is made for a night. Equal numbers of demonstrations of the
same hard walks (10 to 14 steps); only how many steps a call makes differs: 1 (10 to 14 calls), 2
(5 to 7), 4 (3 or 4), 12 (1 or 2), and all of these mixed. A coarser cut makes fewer calls and
longer results, of which the right value has to be picked. They start from the bed's base before
it forgets its tool; after that, so few demonstrations of hard walks teach nothing in any cut.
"""

from aster_jax import experiment

bed = experiment.shared("studies/bed")


def get_config(size: str = ""):
    """Five densities of the same solutions, on the test bed."""
    c = bed.common("density", size, forgotten=False)
    c.study.question = "Does it matter how finely a solution is cut into calls?"
    c.problems.families = ("walk3",)
    c.demos.count = min(c.demos.count, 200)
    c.study.variants = (
        {"name": "calls-10-14", "demos.style": "dense"},
        {"name": "calls-5-7", "demos.style": "dense/2"},
        {"name": "calls-3-4", "demos.style": "dense/4"},
        {"name": "calls-1-2", "demos.style": "dense/12"},
        {"name": "mixed", "demos.style": "dense,dense/2,dense/4,dense/12"},
        *bed.bases(size, forgotten=False),
    )
    return c
