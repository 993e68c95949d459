"""Are the quickstart's problems solvable without the tool? The same model, taught to answer at once.

    python -m aster_jax.main --config experiments/studies/quickstart_direct.py

Hardware: 2 CPU cores, about 3 minutes. Everything is `experiments/quickstart.py` except the
demonstrations, which state the right answer and nothing else, and 400 steps of SFT, where three
seeds of the quickstart took 360, 300 and 340. The README states what it scores, which is
what the quickstart's accuracy would be worth if the tool were not needed.
"""

from aster_jax import experiment


def get_config():
    """The quickstart with direct demonstrations, SFT and evaluation only."""
    c = experiment.read("quickstart")
    c.name = "quickstart_direct"
    c.stages = ("demos", "sft", "eval", "report")
    c.demos.style = "direct"
    c.demos.min_calls = 0
    c.demos.slip_share = 0.0
    c.sft.steps = 400
    c.sft.probe_every = 0
    c.sft.stop_accuracy = 0.0
    return c
