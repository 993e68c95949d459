"""OpenVINO GenAI's continuous batching on the rollout workload; run by its interpreter.

`PYTHON rollout_openvino.py GGUF WORKLOAD BATCH NEW_TOKENS THREADS REPEATS` prints one JSON object
(see `rollout_peers.openvino_generate`). Prompts and numbers of tokens are the workload's; its
library lets nobody choose the tokens, so it samples its own, at temperature 1 over the whole
vocabulary, and never stops early. It computes in float32, keys and values too; the weights
are float16 in its file, the widest it reads.
"""

import json
import sys
import time

import numpy as np
import openvino
import openvino_genai


def read_prompts(path: str, batch: int) -> list[openvino.Tensor]:
    """The ids of `batch` prompts, without padding."""
    with np.load(path) as held:
        ids_BP, lengths_B = held["prompt_ids"][:batch], held["prompt_lengths"][:batch]
    return [
        openvino.Tensor(ids[None, :length].astype(np.int64))
        for ids, length in zip(ids_BP, lengths_B, strict=True)
    ]


def open_pipeline(path: str, batch: int, threads: int) -> openvino_genai.ContinuousBatchingPipeline:
    """The engine with room for all rows at once, and nothing kept between calls."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.cache_size = batch, 2
    scheduler.max_num_batched_tokens = 8192
    scheduler.enable_prefix_caching = False
    settings = {
        "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }  # fmt: skip
    return openvino_genai.ContinuousBatchingPipeline(path, scheduler, "CPU", settings, {})


def main(path: str, workload: str, batch: int, new_tokens: int, threads: int, repeats: int):
    """Times `repeats` calls after one to warm up."""
    pipeline, prompts = open_pipeline(path, batch, threads), read_prompts(workload, batch)
    how = openvino_genai.GenerationConfig()
    how.max_new_tokens, how.ignore_eos = new_tokens, True
    how.do_sample, how.temperature, how.top_p = True, 1.0, 1.0
    seconds, cores = [], []
    for repeat in range(repeats + 1):
        how.rng_seed = repeat
        begun, used = time.perf_counter(), time.process_time()
        made = pipeline.generate(prompts, [how] * batch)
        seconds.append(time.perf_counter() - begun)
        cores.append((time.process_time() - used) / seconds[-1])
        lengths = {len(ids) for row in made for ids in row.m_generation_ids}
        if lengths != {new_tokens}:
            raise RuntimeError(f"rows of {sorted(lengths)} tokens in place of {new_tokens}")
    print(json.dumps({
        "seconds": seconds[1:],
        "tokens_per_s": [batch * new_tokens / s for s in seconds[1:]],
        "cores": cores[1:],
        "versions": {
            "python": sys.version.split()[0], "openvino": openvino.__version__,
            "openvino_genai": openvino_genai.__version__,
        },
        "notes": f"float32, weights float16, {threads} threads, batch {batch}, {new_tokens} "
        f"sampled each; warm-up {seconds[0]:.1f} s",
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
