"""RQ3: what does the budget of calls in training do to other budgets at inference?

    python -m aster_jax.main --config experiments/studies/budget.py

Hardware: 2 CPU cores. `:small` is made for 15 minutes, the default took 36, `:night` is for a
night. The same dense cold start, trained with at most 4, 8 and 16 calls per trajectory, each
evaluated with 4, 8 and 16 calls and, with 16, with a quarter of the tokens. Walks of 2 to 14
steps; a call makes 1, 2 or 4 of them in the demonstrations, so that a policy may learn to
make do with fewer. They start from the bed's base before it forgets its tool.
"""

from aster_jax import experiment

bed = experiment.shared("studies/bed")

CALLS = (4, 8, 16)


def get_config(size: str = ""):
    """Training budgets against inference budgets, on the test bed."""
    c = bed.common("budget", size, forgotten=False)
    c.study.question = "What does the budget of calls in training do to others at inference?"
    c.demos.style = "dense,dense/2,dense/4"
    c.study.variants = (
        *({"name": f"train-{n}", "rl1.max_calls": n} for n in CALLS),
        *bed.bases(size, forgotten=False),
    )
    # The evaluation itself has 16 calls and 448 tokens.
    c.eval.also = (
        *({"name": f"calls-{n}", "max_calls": n, "think": False} for n in CALLS[:-1]),
        {"name": "tokens-quarter", "response_tokens": 112, "think": False},
    )
    return c
