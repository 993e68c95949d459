"""The peers of the rollout benchmark: transformers, google-tunix's sampler, OpenVINO GenAI.

Each runs in its own interpreter, as a script beside this file, on the same weights and the
same forced tokens as our engine; this module starts the scripts and reads their JSON.

    python3 -m venv TORCH_ENV
    TORCH_ENV/bin/pip install torch==2.13.0 transformers numpy safetensors
    python3 -m venv TUNIX_ENV
    TUNIX_ENV/bin/pip install google-tunix
    python3 -m venv OPENVINO_ENV
    OPENVINO_ENV/bin/pip install openvino==2026.4.1 openvino-genai==2026.4.1.0

(torch for CPU suffices; measured with transformers 5.23.0, google-tunix 0.1.7 and jax 0.10.2 on
Python 3.11.) The workload is an .npz file:

    prompt_ids      int32 [R, P]     prompts, padded on the right
    prompt_lengths  int32 [R]        tokens of each prompt, at most P
    forced_ids      int32 [R, T, N]  what the model "samples", by row and turn
    forced_lengths  int32 [R, T]     tokens of each turn, at most N
    result_ids      int32 [R, T, M]  what the tool answers after a turn; after the last unused
    result_lengths  int32 [R, T]     tokens of each result, at most M

Forced tokens must not hold the model's end token, at which transformers stops. All tokens/s
count sampled tokens only, over the whole call, prompt included.
"""

import json
import os
import pathlib
import subprocess

import gguf
import numpy as np

NAMES = (
    "prompt_ids", "prompt_lengths", "forced_ids", "forced_lengths", "result_ids", "result_lengths",
)  # fmt: skip
MISSING = """
import importlib.util, sys
print(*[name for name in sys.argv[1:] if not importlib.util.find_spec(name)])
"""
TORCH = {"torch": "torch==2.13.0", "transformers": "transformers", "safetensors": "safetensors"}
TUNIX = {"tunix": "google-tunix", "jax": "jax"}
OPENVINO = {"openvino": "openvino==2026.4.1", "openvino_genai": "openvino-genai==2026.4.1.0"}
FLOAT16 = 1  # what a .gguf file calls its own type


def transformers_generate(
    python, model_dir, workload, batch: int, new_tokens: int, threads: int, repeats: int
) -> dict:
    """Single-turn sampling with transformers `generate`: prompts, then turn 0's forced tokens.

    Args:
      python: interpreter of an environment with torch and transformers.
      model_dir: a directory that `weights.export` wrote, float32.
      workload: path of the .npz; needs `batch` rows with `new_tokens` forced tokens in turn 0.
      batch: rows per call.
      new_tokens: tokens sampled per row.
      threads: threads that torch may use.
      repeats: timed calls, after one to warm up.

    Returns:
      tokens_per_s, seconds: one entry per repeat.
      cores: CPU seconds per second of each repeat; far below `threads` when other work was in
        the way, which then slowed the peer.
      versions: by package name.
      notes: what ran.
      load: the machine's load averages before and after, 1, 5 and 15 minutes each.

    Raises:
      ValueError: no such interpreter, a package is missing in it, or a bad workload.
      RuntimeError: the script failed; carries the end of what it said.
    """
    check_interpreter(python, TORCH)
    check_workload(model_dir, workload, rows=batch, turns=1, tokens=new_tokens)
    counts = (batch, new_tokens, threads, repeats)
    return run_script(python, "rollout_transformers.py", model_dir, workload, *counts)


def tunix_turns(python, model_dir, workload, rollouts: int, turns: int, repeats: int) -> dict:
    """Multi-turn rollouts with google-tunix's vanilla sampler: a batch-1 call per turn.

    Calls are serial, so the caller scales: 32 rollouts take 32 times the seconds of one.

    Args:
      python: interpreter of an environment with google-tunix.
      model_dir, workload: as above; needs `rollouts` rows of `turns` turns.
      rollouts: rows that are timed, one after the other.
      turns: sampler calls per rollout.
      repeats: timed passes over those rollouts, after the pass that compiles.

    Returns:
      capped, budget: the two ways to bound a turn. `budget` is tunix's own agentic loop, in which
        a call may use all that is left of the response budget; `capped` gives a call its turn's
        tokens only, tunix's best case. Each holds
        steady_s: seconds per rollout, one entry per repeat, nothing left to compile (turns
          whose lengths repeat exactly; lengths that vary compile anew);
        cores: as above, one entry per repeat;
        turn_s: median steady seconds of each turn;
        first_s, compiles, compile_s: of each rollout in the first pass, its seconds, what XLA
          compiled in it, and the seconds of that; a rollout whose lengths are new costs this;
        programs: prefill and decode programs among those compiles;
        cache_tokens, prompt_buckets: the shapes it ran with.
      versions, notes, load: as above.

    Raises:
      ValueError, RuntimeError: as above.
    """
    check_interpreter(python, TUNIX)
    check_workload(model_dir, workload, rows=rollouts, turns=turns, tokens=1)
    return run_script(python, "rollout_tunix.py", model_dir, workload, rollouts, turns, repeats)


def transformers_logprobs(python, model_dir, tokens, threads: int) -> dict[str, np.ndarray]:
    """Log-probs of given tokens by three paths of transformers, float64 [R, S] each.

    Args:
      python, model_dir, threads: as above.
      tokens: path of an .npz with ids, int32 [R, S], padded on the right with any id.

    Returns:
      cached: float32, all rows at once, token by token on the library's cache.
      whole: float32, one forward over whole rows.
      exact: the same in float64 throughout, but for the rotary angles.
      Entry t describes token t given those before it, entry 0 is 0.

    Raises:
      ValueError, RuntimeError: as above.
    """
    check_interpreter(python, TORCH)
    out = pathlib.Path(tokens).with_suffix(".transformers.npz")
    run_script(python, "rollout_transformers_logprobs.py", model_dir, tokens, out, threads)
    with np.load(out) as held:
        return dict(held)


def openvino_generate(
    python, gguf_file, workload, batch: int, new_tokens: int, threads: int, repeats: int
) -> dict:
    """Single-turn sampling with OpenVINO GenAI's continuous batching, in float32.

    Args:
      python: interpreter of an environment with openvino-genai.
      gguf_file: as `write_half` leaves it.
      workload, batch, new_tokens, threads, repeats: as `transformers_generate`; of the tokens
        only their number is forced.

    Returns, Raises: as `transformers_generate`.
    """
    check_interpreter(python, OPENVINO)
    if not pathlib.Path(gguf_file).exists():
        raise ValueError(f"{gguf_file} does not exist; make it with write_half")
    counts = (batch, new_tokens, threads, repeats)
    return run_script(python, "rollout_openvino.py", gguf_file, workload, *counts)


def write_half(source, target) -> pathlib.Path:
    """A .gguf file's weights in float16, scales in float32: what OpenVINO's reader knows."""
    read = gguf.GGUFReader(source)
    made = gguf.GGUFWriter(target, read.fields["general.architecture"].contents())
    for name, field in read.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # the writer's own
        value = FLOAT16 if name == "general.file_type" else field.contents()
        made.add_key_value(name, value, field.types[0], (*field.types, None)[1])
    for tensor in read.tensors:
        exact = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        made.add_tensor(tensor.name, exact.astype(np.float16 if len(tensor.shape) > 1 else np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return pathlib.Path(target)


def check_interpreter(python, packages: dict[str, str]) -> None:
    """Refuse an interpreter that is not there or lacks a module; `packages`: module -> package."""
    try:
        done = subprocess.run([python, "-c", MISSING, *packages], capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"{python} is no interpreter that can be started: {error}") from error
    if done.returncode:
        raise ValueError(f"{python} is no Python interpreter: {done.stderr.strip()[-300:]}")
    if missing := done.stdout.split():
        wanted = " ".join(packages[name] for name in missing)
        raise ValueError(f"{python} lacks {', '.join(missing)}: {python} -m pip install {wanted}")


def check_workload(model_dir, workload, rows: int, turns: int, tokens: int) -> None:
    """Refuse a workload that does not hold `rows` x `turns` turns of `tokens` tokens or more."""
    config = pathlib.Path(model_dir) / "config.json"
    if not config.exists():
        raise ValueError(f"{config} does not exist; make the directory with weights.export")
    end_id = json.loads(config.read_text())["eos_token_id"]
    with np.load(workload) as held:
        if missing := [name for name in NAMES if name not in held]:
            raise ValueError(f"{workload} has no {', '.join(missing)}")
        forced_RTN, lengths_RT = held["forced_ids"], held["forced_lengths"]
    if lengths_RT.shape[0] < rows or lengths_RT.shape[1] < turns:
        raise ValueError(f"{workload} has {lengths_RT.shape} rows and turns, not {(rows, turns)}")
    lengths_RT = lengths_RT[:rows, :turns]
    if lengths_RT.min() < tokens:
        raise ValueError(f"{workload} has a turn of {lengths_RT.min()} tokens, not {tokens}")
    inside_RTN = np.arange(forced_RTN.shape[2]) < lengths_RT[..., None]
    if np.any(inside_RTN & (forced_RTN[:rows, :turns] == end_id)):
        raise ValueError(f"{workload} forces the end token {end_id}; peers stop there")


def run_script(python, script: str, *arguments) -> dict:
    """The JSON object on the last line that a script beside this file prints, and the load."""
    before = os.getloadavg()
    path = pathlib.Path(__file__).with_name(script)
    # Safe path: this folder holds a tools.py that must not stand in for another module's.
    environment = os.environ | {"PYTHONSAFEPATH": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [python, str(path), *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    lines = done.stdout.strip().split("\n")
    if done.returncode or not lines[-1].startswith("{"):
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise RuntimeError(f"{script} under {python} ended with {done.returncode}: {said}")
    return json.loads(lines[-1]) | {"load": [*before, *os.getloadavg()]}
