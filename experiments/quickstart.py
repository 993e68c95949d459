"""The whole recipe on a laptop: a tiny model learns to solve problems with a live tool.

    python -m aster_jax.main --config experiments/quickstart.py

Trains from scratch (the vocabulary too); no download. 2 CPU cores.
"""

from aster_jax import config


def get_config():
    """The quickstart."""
    c = config.default()
    c.name = "quickstart"
    c.model.show_tool = False
    return c
