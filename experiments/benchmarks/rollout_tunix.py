"""google-tunix's vanilla sampler on the rollout workload; run by the interpreter that has it.

`PYTHON rollout_tunix.py MODEL_DIR WORKLOAD ROLLOUTS TURNS REPEATS` prints one JSON object (see
`rollout_peers.tunix_turns`). The checkpoint goes through tunix's own Llama loader. As in its
agentic loop, each turn is one batch-1 call on the whole history as text, with log-probs, at
temperature 1; the history holds the forced tokens, whatever the turn itself sampled.

Two ways to bound a turn. `budget` is what the loop does: a call may use all that is left of the
response budget and ends at an end token. `capped` allows a turn its own tokens only, which
spares most of the compiles and is the best case. Kept out, in tunix's favour: chat template,
real tokenizer (text here is ids in decimals), the loop's threads, and a cache any larger than
the longest call needs.
"""

import dataclasses
import json
import pathlib
import sys
import time
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
from tunix.generate import sampler, utils
from tunix.models.llama3 import model, params


class Decimals:
    """A tokenizer whose text is the ids themselves; what tunix's adapter asks for."""

    def __init__(self, end_id: int):
        self.end_id = end_id

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 0  # none

    def eos_id(self) -> int:
        return self.end_id

    def pad_id(self) -> int:
        return self.end_id


class Turns(sampler.Sampler):
    """The sampler, but a call ends after `ends_after` tokens as if that one were an end token."""

    ends_after = 0

    def init_sample_state(self, all_input_ids, total_sampling_steps, **rest):
        state = super().init_sample_state(
            all_input_ids, total_sampling_steps=total_sampling_steps, **rest
        )
        last = all_input_ids.shape[1] + self.ends_after - 1  # where its loop stands at the end
        return dataclasses.replace(state, total_sampling_steps=last)


@dataclasses.dataclass(frozen=True)
class Call:
    """One turn: the history as text, tokens the call may sample, tokens it samples."""

    text: str
    prompt_tokens: int
    limit: int
    sampled: int


def plan(workload: str, rollouts: int, turns: int, mode: str) -> list[list[Call]]:
    """The calls of each rollout, in order."""
    with np.load(workload) as held:
        work = {name: held[name] for name in held.files}
    planned = []
    for row in range(rollouts):
        history = work["prompt_ids"][row, : work["prompt_lengths"][row]].tolist()
        forced, results = work["forced_lengths"][row, :turns], work["result_lengths"][row, :turns]
        left = int(forced.sum() + results[:-1].sum())  # the smallest budget that holds it all
        calls = []
        for turn in range(turns):
            count = int(forced[turn])
            limit = left if mode == "budget" else count
            calls.append(Call(" ".join(map(str, history)), len(history), limit, count))
            history += work["forced_ids"][row, turn, :count].tolist()
            history += work["result_ids"][row, turn, : results[turn]].tolist()
            left -= count + int(results[turn])
        planned.append(calls)
    return planned


def load(model_dir: str):
    """The Llama of tunix with this checkpoint's sizes and weights, float32."""
    read = json.loads(pathlib.Path(model_dir, "config.json").read_text())
    config = model.ModelConfig(
        num_layers=read["num_hidden_layers"], vocab_size=read["vocab_size"],
        embed_dim=read["hidden_size"], hidden_dim=read["intermediate_size"],
        num_heads=read["num_attention_heads"], head_dim=read["head_dim"],
        num_kv_heads=read["num_key_value_heads"], rope_theta=read["rope_theta"],
        norm_eps=read["rms_norm_eps"], weight_tying=read["tie_word_embeddings"],
    )  # fmt: skip
    built = params.create_model_from_safe_tensors(model_dir, config, dtype=jnp.float32)
    return built, config, read["eos_token_id"]


class Compiles:
    """Counts what XLA compiles, and how long it takes, from when it is made."""

    def __init__(self):
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.count, self.seconds = self.count + 1, self.seconds + seconds


def run_turn(turns: Turns, call: Call, max_prompt: int, config) -> float:
    """Seconds of one call."""
    turns.ends_after = call.sampled
    begun = time.perf_counter()
    out = turns(
        call.text, max_generation_steps=call.limit, max_prompt_length=max_prompt,
        temperature=1.0, top_p=1.0, return_logprobs=True,
        eos_tokens=[config.vocab_size],  # an id that is never sampled: `ends_after` ends a turn
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    if np.count_nonzero(out.logprobs[0]) != call.sampled:
        raise RuntimeError(f"sampled {np.count_nonzero(out.logprobs[0])}, not {call.sampled}")
    return seconds


def measure(mode: str, workload: str, rollouts: int, turns: int, repeats: int, loaded) -> dict:
    """One pass that compiles, then `repeats` that must not."""
    built, config, end_id = loaded
    planned = plan(workload, rollouts, turns, mode)
    max_prompt = max(calls[0].prompt_tokens for calls in planned)
    buckets = {
        call: max_prompt if call.prompt_tokens <= max_prompt
        else utils.next_power_of_2(call.prompt_tokens)
        for calls in planned for call in calls
    }  # fmt: skip
    cache = sampler.CacheConfig(
        cache_size=max(bucket + call.limit for call, bucket in buckets.items()),
        num_layers=config.num_layers, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim,
    )  # fmt: skip
    turns_of = Turns(built, Decimals(end_id), cache)
    compiles, passes, counts, spent, cores = Compiles(), [], [], [], []
    for _ in range(1 + repeats):
        rows, begun, used = [], time.perf_counter(), time.process_time()
        for calls in planned:
            count, seconds = compiles.count, compiles.seconds
            rows.append([run_turn(turns_of, call, max_prompt, config) for call in calls])
            counts.append(compiles.count - count)
            spent.append(compiles.seconds - seconds)
        passes.append(rows)
        cores.append((time.process_time() - used) / (time.perf_counter() - begun))
    if any(counts[rollouts:]):
        raise RuntimeError(f"compiled again after warm-up: {counts}")
    steady = np.array(passes[1:])  # [repeats, rollouts, turns]
    return {
        "first_s": [sum(row) for row in passes[0]],
        "compiles": counts[:rollouts],
        "compile_s": spent[:rollouts],
        "steady_s": steady.sum(2).mean(1).tolist(),
        "cores": cores[1:],
        "turn_s": np.median(steady, (0, 1)).tolist(),
        "cache_tokens": cache.cache_size,
        "prompt_buckets": sorted(set(buckets.values())),
        "programs": 2 * len({(buckets[c], c.limit) for calls in planned for c in calls}),
    }


def main(model_dir: str, workload: str, rollouts: int, turns: int, repeats: int):
    """Both ways to bound a turn, one after the other."""
    loaded = load(model_dir)
    found = {
        mode: measure(mode, workload, rollouts, turns, repeats, loaded)
        for mode in ("capped", "budget")
    }
    names = ("google-tunix", "jax", "jaxlib", "flax")
    found["versions"] = {"python": sys.version.split()[0]} | {n: metadata.version(n) for n in names}
    found["notes"] = (
        f"{rollouts} rollouts timed one after the other, {turns} calls of batch 1 each; weights "
        "loaded by tunix's Llama loader, float32; its rotary base is 1e6 whatever the checkpoint "
        "says, which changes values and not the work"
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
