"""Self-distillation: what RL has found, taught to the model that RL began from.

    python -m aster_jax.export --workdir runs/quickstart --checkpoint sft --out runs/quickstart_sft
    python -m aster_jax.main --config experiments/self_distill.py

Needs a finished quickstart in runs/quickstart. Hardware: 2 CPU cores, under 2 GB, no
download; it takes a minute or two. What came of it is in experiments/README.md.

The teacher is the quickstart's RL: those of its episodes that are right become demonstrations
(rejection sampling), the second stage's first, each once. The student starts where RL had
started, and gets nothing but SFT on them; held-out problems are those of the quickstart.
Other runs: --config.demos.source=run:WORKDIR --config.model.source=EXPORT.
"""

from aster_jax import experiment


def get_config():
    """The quickstart's model and problems, with its own RL as the teacher."""
    c = experiment.read("quickstart")
    c.name = "self_distill"
    c.stages = ("demos", "sft", "eval", "report")
    c.model.source = "runs/quickstart_sft"
    c.demos.source = "run:runs/quickstart"
    c.demos.episodes = ("rl2", "rl1")
    c.demos.duplicates = "exact"  # after RL most samples of a problem are the same
    c.demos.max_per_problem = 4
    c.sft.learning_rate = 1e-3
    c.sft.steps = 60
    c.sft.decay_steps = 60
    c.sft.probe_every = 0
    c.sft.stop_accuracy = 0.0
    c.eval.checkpoints = ("base", "sft")
    return c
