"""An update of SmolLM2 with transformers and torch; run by the interpreter that has them.

`PYTHON train_transformers.py MODEL_DIR WORK KIND WAY TOKENS THREADS` reads the batch that
`train_work` describes and makes one update for every line on its standard input. KIND is
"sft" or "grpo"; a microbatch has at most TOKENS tokens, padding included. WAY is

packed   sequences side by side in rows; the library finds them by their positions
kept     the same, and scores of the vocabulary only where a token is trained
padded   sequences sorted by length, those of a microbatch filled up to its longest

Attention is the library's own choice (torch's scaled dot product); Adam is torch's fused
one. The policy loss is the clipped one, on-policy, as TRL computes it.
"""

import json
import sys
import time

import numpy as np
import torch
import transformers

CLIP = (0.8, 1.28)


def read(path: str):
    """Sequences as dicts of ids, mask, old log-probs and advantage, the longest first."""
    with np.load(path) as held:
        cuts = np.cumsum(held["lengths"])[:-1]
        parts = zip(*(np.split(held[n], cuts) for n in ("ids", "mask", "old")), held["advantages"])
        sequences = [{"ids": i, "mask": m, "old": o, "advantage": float(a)} for i, m, o, a in parts]
    return sorted(sequences, key=lambda s: -len(s["ids"]))


def groups(sequences, way: str, tokens: int):
    """Sequences by microbatch: first fit into packed rows, or as many as fit when padded."""
    found = []
    for one in sequences:
        for group in found:
            used = sum(len(s["ids"]) for s in group) if way != "padded" else (
                len(group) * len(group[0]["ids"]))  # fmt: skip
            size = len(group[0]["ids"]) if way == "padded" else len(one["ids"])
            if used + size <= tokens:
                group.append(one)
                break
        else:
            found.append([one])
    return found


def arrays(group, way: str) -> dict:
    """Tensors of a microbatch; `weights`, `old` and `advantages` are of the token that comes next."""

    def shifted(s, values):
        return np.concatenate([values[1:], values[:1] * 0])

    rows = [
        {"ids": s["ids"], "positions": np.arange(len(s["ids"])), "seen": np.ones(len(s["ids"])),
         "targets": shifted(s, s["ids"]), "weights": shifted(s, s["mask"]),
         "old": shifted(s, s["old"]), "advantages": np.full(len(s["ids"]), s["advantage"], np.float32)}
        for s in group
    ]  # fmt: skip
    if way == "padded":
        longest = len(rows[0]["ids"])
        made = {n: np.stack([np.pad(r[n], (0, longest - len(r[n]))) for r in rows]) for n in rows[0]}
    else:
        made = {n: np.concatenate([r[n] for r in rows])[None] for n in rows[0]}
    whole = ("ids", "positions", "targets", "seen")
    return {n: torch.tensor(v.astype(np.int64 if n in whole else np.float32)) for n, v in made.items()}


def summed_loss(model, batch: dict, kind: str, way: str, trained: float):
    """The microbatch's share of the loss."""
    names = ("targets", "weights", "advantages", "old")
    targets, weights, advantages, old = (batch[n].flatten() for n in names)
    kept = torch.nonzero(weights)[:, 0] if way == "kept" else None
    given = {"attention_mask": batch["seen"]} if way == "padded" else {"position_ids": batch["positions"]}
    given |= {} if kept is None else {"logits_to_keep": kept}
    scores = model(input_ids=batch["ids"], use_cache=False, **given).logits.flatten(0, 1)
    if kept is not None:
        targets, weights, advantages, old = (x[kept] for x in (targets, weights, advantages, old))
    if kind == "sft":
        losses = torch.nn.functional.cross_entropy(scores, targets, reduction="none")
    else:
        chosen = scores.gather(-1, targets[:, None])[:, 0] - torch.logsumexp(scores, -1)
        ratio = torch.exp(chosen - old)
        losses = -torch.minimum(advantages * ratio, advantages * ratio.clamp(*CLIP))
    return (losses * weights).sum() / trained


def main(model_dir: str, work: str, kind: str, way: str, tokens: int, threads: int):
    """Say what is running, then an update per line."""
    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).train()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    sequences = read(work)
    trained = sum(float(s["mask"][1:].sum()) for s in sequences)
    batches = [arrays(group, way) for group in groups(sequences, way, tokens)]
    computed = sum(b["ids"].numel() for b in batches)
    print(json.dumps({
        "torch": torch.__version__, "transformers": transformers.__version__,
        "microbatches": len(batches), "computed_tokens": computed,
        "attention": model.config._attn_implementation,
    }), flush=True)  # fmt: skip
    for _ in sys.stdin:
        begun, used, total = time.perf_counter(), time.process_time(), 0.0
        adam.zero_grad(set_to_none=True)
        for batch in batches:
            loss = summed_loss(model, batch, kind, way, trained)
            loss.backward()
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        print(json.dumps({
            "seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - used,
            "loss": total, "grad_norm": float(norm),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:5], *map(int, sys.argv[5:7]))
