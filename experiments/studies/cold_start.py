"""RQ1: how does the cold start shape the use of the tool under RL?

    python -m aster_jax.main --config experiments/studies/cold_start.py

Hardware: 2 CPU cores. `:small` took 9.5 minutes; the default took 34 with
`--config.study.at_once=2`, beside some tests; `:night` is made for a night. One base, six
starts: none; none, with every question asking for the tool; and four of about as many
demonstration tokens: reasoning in text with one check at the end, text with every fourth or every
second dense, and dense interaction.
"""

from aster_jax import experiment

bed = experiment.shared("studies/bed")


def get_config(size: str = ""):
    """The starts of the paper's first question, on the test bed, and two mixtures."""
    c = bed.common("cold_start", size)
    c.study.question = "How does the cold start shape the use of the tool under RL?"
    count = c.demos.count  # of dense ones; the others are shorter, so there are more
    started = {"stages": ("rl1", "eval", "report"), "eval.checkpoints": ("base", "rl1")}
    c.study.variants = (
        {"name": "zero", **started},
        {"name": "forced", **started, "problems.suffix": " Use the tool."},
        {"name": "sparse", "demos.style": "check", "demos.count": count * 11 // 7},
        {"name": "quarter", "demos.style": "text*3,dense", "demos.count": count * 8 // 5},
        {"name": "half", "demos.style": "text,dense", "demos.count": count * 4 // 3},
        {"name": "dense", "demos.style": "dense"},
        *bed.bases(size),
    )
    return c
