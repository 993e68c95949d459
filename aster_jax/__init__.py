"""ASTER in JAX: train language models that think with tools (arXiv 2602.01204)."""

__version__ = "0.1.0"
