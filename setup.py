"""Package metadata; versions that a run was made with are pinned in requirements.txt."""

from setuptools import find_packages, setup

setup(
    name="aster_jax",
    version="0.1.0",
    description="ASTER in JAX: train language models that think with tools",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["aster_jax", "aster_jax.*"]),
    package_data={"aster_jax.report": ["page/*"]},
    install_requires=[
        "absl-py", "flax>=0.12", "gguf", "grain", "jax>=0.10", "math-verify", "matplotlib",
        "ml-collections", "networkx", "numpy", "optax", "orbax-checkpoint", "pyarrow",
        "safetensors", "scipy", "sentencepiece", "sympy", "tokenizers",
    ],
    extras_require={
        "test": ["pytest", "pytest-xdist", "hypothesis"],
        "hub": ["huggingface_hub"],
        "plan": ["libtpu==0.0.52"],
        "peers": ["jupyter_client", "ipykernel", "transformers", "torch"],
    },
)
