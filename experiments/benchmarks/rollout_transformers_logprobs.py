"""Log-probs of given tokens by transformers; run by the interpreter that has torch.

`PYTHON rollout_transformers_logprobs.py MODEL_DIR TOKENS OUT THREADS` writes an .npz (see
`rollout_peers.transformers_logprobs`) and prints one JSON object. Attention and cache are the
library's own choice on CPU. The rotary frequencies are set to the correctly rounded ones,
which differ from its own in the last bit, so that what is left between any two paths is how
they sum.
"""

import json
import sys

import numpy as np
import torch
import transformers

ROWS = 4  # of a whole-sequence forward


def norm_in_own_dtype(module):
    """RMSNorm without the library's cast to float32."""

    def forward(x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
        return module.weight * (x * scale)

    return forward


def chosen(scores_RTV, ids_RT):
    """Log-prob of each id."""
    return torch.log_softmax(scores_RTV, -1).gather(-1, ids_RT[..., None])[..., 0]


def whole(model, ids_RS):
    """One forward over whole rows; entry t describes token t, entry 0 is 0."""
    parts = [
        chosen(model(input_ids=part_RS).logits[:, :-1], part_RS[:, 1:])
        for part_RS in ids_RS.split(ROWS)
    ]
    return torch.nn.functional.pad(torch.cat(parts), (1, 0))


def cached(model, ids_RS):
    """All rows at once, token by token on the cache; the first token is the prompt."""
    cache, parts = None, []
    for t in range(ids_RS.shape[1] - 1):
        out = model(input_ids=ids_RS[:, t : t + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        parts.append(chosen(out.logits, ids_RS[:, t + 1 : t + 2]))
    return torch.nn.functional.pad(torch.cat(parts, 1), (1, 0))


@torch.no_grad()
def main(model_dir: str, tokens: str, out: str, threads: int):
    """Writes the three paths' log-probs."""
    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    rotary = model.model.rotary_emb
    half, theta = len(rotary.inv_freq), model.config.rope_parameters["rope_theta"]
    rotary.inv_freq.copy_((theta ** -(torch.arange(half, dtype=torch.float64) / half)).float())
    with np.load(tokens) as held:
        ids_RS = torch.tensor(held["ids"].astype(np.int64))
    found = {"cached": cached(model, ids_RS), "whole": whole(model, ids_RS)}
    model = model.double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = norm_in_own_dtype(module)
    found["exact"] = whole(model, ids_RS)
    np.savez(out, **{name: x.double().numpy() for name, x in found.items()})
    print(json.dumps({
        "versions": {
            "python": sys.version.split()[0], "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
