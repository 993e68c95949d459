"""Models in and out: `load` and `describe` a source, `export` a Hugging Face directory.

`revision` tells the commit that a source from the hub stands for.
"""

from aster_jax.weights.export import export
from aster_jax.weights.fetch import revision
from aster_jax.weights.source import Loaded, describe, load

__all__ = ["Loaded", "describe", "export", "load", "revision"]
