"""Compiles a gradient of the policy for chips that are not here; prints facts as JSON.

    python -m tests.train.compile_ahead '{"topology": "v5e:2x2", "mesh": [2, 1, 2], ...}'

A process of its own, as `tests.rollout.compile_ahead` is, whose environment it takes.
"""

import dataclasses
import json
import sys

from tests.rollout import compile_ahead  # before jax is loaded  # isort: skip

import jax
import jax.numpy as jnp

from aster_jax import mesh as meshes
from aster_jax.model import config, logprobs
from aster_jax.train import step


def compile_gradient(case: dict) -> dict:
    """Kernels, collectives and bytes of one microbatch's gradient, rows one per data shard."""
    devices = compile_ahead.described(case["topology"])
    mesh = meshes.build(*case["mesh"], devices=devices)
    cfg = dataclasses.replace(
        config.PRESETS[case["preset"]], num_layers=case["layers"],
        training_attention=case["attention"], keep_attention=case["keep"],
    )  # fmt: skip
    laid_out = meshes.lay_out(cfg, mesh)

    def loss(params, tokens, positions, segments):
        return jnp.sum(logprobs.token_logprobs(params, laid_out, tokens, positions, segments)[0])

    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(meshes.BATCH_AXES))
    ints = jax.ShapeDtypeStruct((meshes.batch_shards(mesh), case["tokens"]), jnp.int32, sharding=rows)
    lowered = jax.jit(jax.grad(loss)).lower(step.abstract_params(cfg, mesh), ints, ints, ints)
    compiled = lowered.compile(compiler_options=compile_ahead.READABLE)
    text = compiled.as_text()
    return {
        "attention": laid_out.training_attention,
        "kernels": len(compile_ahead.KERNEL.findall(text)),
        "collectives": sorted(set(compile_ahead.COLLECTIVE.findall(text))),
        "temp": compiled.memory_analysis().temp_size_in_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(compile_gradient(json.loads(sys.argv[1]))))
