"""TRICE-4B: what the strongest public 4B model with a Python tool does differently from ASTER.

    python -m aster_jax.main --config experiments/trice_4b.py --workdir /mnt/shared/trice_4b
    python -m aster_jax.main --config experiments/trice_4b.py:16 ...

Same base, and ASTER's question gone on with: which trajectories prepare for RL? TRICE answers
with problems that profit from the tool and a teacher whose use of it can be learned, not with a
number of calls. Its authors report 96.7 on AIME 2025 and 86.7 on HMMT 2025, at 80K tokens and 128
calls (ASTER: 90.0 and 77.1 at 90K); by their numbers the base alone has 82.5 and 68.8 at 80K.
Samples per problem are not stated there. Not run by us.

Hardware: as experiments/aster_4b.py, from which every number comes that does not stand here. A
row of the evaluation is longer, so a device holds one such row and a half at a time.

Sources: [T] arXiv 2605.06326, its project page (GitHub CajZella/TRICE, index.html) and model card.
Where they are silent the value is ours and says so: learning rates, batches, steps and the
share of text are not published.
"""

from aster_jax import experiment


def get_config(devices: str = "64"):
    """ASTER's run with TRICE's departures from it."""
    c = experiment.read(f"aster_4b:{devices}")
    c.name = "trice_4b"
    # The released trajectories: CajZella/TRICE-SFT-Data on the Hugging Face hub. [T]
    c.demos.source = "data/trice_sft.parquet"
    c.demos.count = 4096  # ours, as ASTER's: TRICE's number is not published
    c.demos.min_calls = 1  # [T] how many calls is not the criterion; whether the tool helps is
    c.demos.keep_errors = True  # ours: a criterion of success is not stated
    # [T] mixes text-only ones in, to keep reasoning without a tool. How many is not published.
    c.demos.text_only_share = 0.2  # ours
    c.demos.max_tokens = 24_576  # [T] overlong ones left out; where it cuts is not stated, so ours
    # [T] "tool-advantaged" problems, which are not published; that they are 4,325 we have at second
    # hand. Ours: problems that the base solves with the tool and not without, by two evaluations of
    # it, in this file.
    c.problems.source = "data/tool_advantaged.parquet"

    # [T] strictly on-policy: one optimiser step per rollout, taken by whoever sampled it. The
    # replay of routing that it adds is for mixtures of experts; this model has none.
    c.rl.minibatches = 1
    c.rl.updates = 1
    # [T] checkpoints are chosen by pass@k and rollout length, not by loss. Here for RL by itself,
    # by accuracy on validation problems; for SFT by reading the evaluation's pass@k.
    c.rl.hand_on = "best"

    c.eval.response_tokens = 79_872  # [T] 80K in all, prompt and results included
    c.eval.turn_tokens = 79_872
    c.eval.context_tokens = 81_920
    c.eval.max_calls = 128  # [T]
    c.eval.samples = 8  # ours: all its AIME values are multiples of 1/240
    c.eval.think = True  # [T] what is left without the tool, the monitor of forgetting
    c.rollout.capacity = 81_920  # the longest context of all stages
    c.eval.also = (
        {"name": "hmmt25", "heldout": "data/hmmt25.parquet"},
        {"name": "beyond_aime", "heldout": "data/beyond_aime.parquet"},
    )
    return c
