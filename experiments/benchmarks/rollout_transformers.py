"""transformers `generate` on the rollout workload; run by the interpreter that has torch.

`PYTHON rollout_transformers.py MODEL_DIR WORKLOAD BATCH NEW_TOKENS THREADS REPEATS` prints one
JSON object (see `rollout_peers.transformers_generate`). Attention, cache and dtype are the
library's own choice for this checkpoint on CPU; sampling is at temperature 1 over the whole
vocabulary. The forced tokens come out because the last logits processor hands the sampler
scores in which nothing else is possible: its soft-max and draw are still done in full.
"""

import json
import sys
import time

import numpy as np
import torch
import transformers


class Forced(transformers.LogitsProcessor):
    """Scores of -inf but for the forced token of each row; one buffer, 2 x B writes a step."""

    def __init__(self, forced_BN: torch.Tensor, prompt_tokens: int):
        self.forced_BN, self.prompt_tokens, self.scores_BV = forced_BN, prompt_tokens, None

    def __call__(self, input_ids, scores):
        n = input_ids.shape[1] - self.prompt_tokens
        if n == 0:
            self.scores_BV = torch.full_like(scores, -float("inf"))
        else:
            self.scores_BV.scatter_(1, self.forced_BN[:, n - 1 : n], -float("inf"))
        return self.scores_BV.scatter_(1, self.forced_BN[:, n : n + 1], 0.0)


def read_workload(path: str, batch: int, new_tokens: int):
    """Left-padded prompts, their mask, and the forced tokens of `batch` rows."""
    with np.load(path) as held:
        ids_BP, lengths_B = held["prompt_ids"][:batch], held["prompt_lengths"][:batch]
        forced_BN = held["forced_ids"][:batch, 0, :new_tokens].astype(np.int64)
    longest = lengths_B.max()
    left_BP = np.zeros((batch, longest), np.int64)
    for row, (ids, length) in enumerate(zip(ids_BP, lengths_B, strict=True)):
        left_BP[row, longest - length :] = ids[:length]
    mask_BP = (np.arange(longest) >= (longest - lengths_B)[:, None]).astype(np.int64)
    return torch.tensor(left_BP), torch.tensor(mask_BP), torch.tensor(forced_BN)


def main(model_dir: str, workload: str, batch: int, new_tokens: int, threads: int, repeats: int):
    """Times `repeats` calls after one to warm up."""
    torch.set_num_threads(threads)
    transformers.set_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    ids_BP, mask_BP, forced_BN = read_workload(workload, batch, new_tokens)
    seconds, cores = [], []
    for _ in range(repeats + 1):
        forced = Forced(forced_BN, ids_BP.shape[1])
        begun, used = time.perf_counter(), time.process_time()
        out = model.generate(
            input_ids=ids_BP, attention_mask=mask_BP, max_new_tokens=new_tokens, do_sample=True,
            temperature=1.0, top_k=0, top_p=1.0, logits_processor=[forced],
            return_dict_in_generate=True,
        )  # fmt: skip
        seconds.append(time.perf_counter() - begun)
        cores.append((time.process_time() - used) / seconds[-1])
        if not torch.equal(out.sequences[:, ids_BP.shape[1] :], forced_BN):
            raise RuntimeError("generate did not return the forced tokens")
    print(json.dumps({
        "seconds": seconds[1:],
        "tokens_per_s": [batch * new_tokens / s for s in seconds[1:]],
        "cores": cores[1:],
        "versions": {
            "python": sys.version.split()[0], "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "notes": f"float32, {torch.get_num_threads()} threads, attention "
        f"{model.config._attn_implementation}, {type(out.past_key_values).__name__}, "
        f"batch {batch}, prompts of {ids_BP.shape[1]} tokens, {new_tokens} sampled each; "
        f"warm-up {seconds[0]:.1f} s",
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
