"""The test bed of the studies: a small model on which the interaction with its tool can collapse.

A 2-layer model from scratch and problems of graded difficulty (`aster_jax/demos/walks.py`). The
base that every member starts from is trained on solutions written in text and, a little, on
traces of the tool, as a pretrained model is: it answers a part of the easy walks in text and
next to none of the hard ones, so that at first it is text that earns, while only the tool can
earn on the hard ones later. Imported by the studies; it is no experiment of its own.
"""

from aster_jax import config

SIZES = ("smoke", "small", "", "night")
# Two steps, since a model first has to learn to copy numbers, which traces of the tool teach
# best, and then to add, which takes many solutions in text. "told" are traces whose question
# asks for the tool. FIRST and SECOND are keys of a run as `study.variants` has them.
FIRST = {
    "name": "base1",
    "stages": ("demos", "sft", "report"),
    "problems.families": ("walk2", "walk3"),
    "demos.style": "text*3,dense,told",
    "demos.count": 1600,
    "sft.steps": 500,
    "sft.learning_rate": 4e-3,
    "sft.warmup_steps": 10,
    "sft.decay_steps": 500,
}
SECOND = FIRST | {
    "name": "base2",
    "problems.families": ("walk1", "walk2", "walk3"),
    "demos.style": "text*6,dense,told",
    "demos.count": 2400,
    "sft.steps": 160,
    "sft.learning_rate": 3e-3,
    "sft.decay_steps": 160,
}


def common(name: str, size: str):
    """What all members of all studies share; `size` is "" or one of `SIZES`.

    "smoke" (two seeds) runs and learns nothing, "small" is made for 15 minutes.
    """
    if size not in SIZES:
        raise ValueError(f"{name}:{size} is unknown; choose one of {', '.join(filter(None, SIZES))}")
    c = config.default()
    c.name = f"{name}-{size}" if size else name
    _model(c)
    _training(c, size)
    c.study.base = (FIRST["name"], SECOND["name"])
    c.study.seeds = tuple(range({"smoke": 2, "small": 1, "": 5, "night": 8}[size]))
    if size == "smoke":
        _shrink(c)
    return c


def bases(size: str) -> tuple[dict, dict]:
    """The variants that lead to the weights all others start from."""
    if size == "smoke":
        few = {"sft.steps": 8, "demos.count": 96}
        return FIRST | few, SECOND | few
    return FIRST, SECOND


def _shrink(c):
    c.model.d_model, c.model.d_ff = 64, 192
    c.problems.num_train = 24
    c.demos.count = 64
    c.sft.steps = 2
    c.sft.save_every = c.rl.save_every = 1
    c.rl.prompts, c.rl.group = 2, 4
    c.eval.samples = 2
    for stage in ("rl1", "rl2", "eval"):
        c[stage].turn_tokens, c[stage].response_tokens = 32, 96


def _model(c):
    c.model.show_tool = False
    c.model.vocab_size = 1024
    c.model.num_layers = 2
    c.model.d_model = 128
    c.model.d_ff = 384
    c.model.num_heads = 4
    c.model.num_kv_heads = 2
    c.model.head_dim = 32
    c.rollout.slots = 64
    c.rollout.steps_per_dispatch = 8
    c.rollout.capacity = 512
    c.rollout.pool_tokens = 24_576
    c.rollout.prefill_buckets = (16, 64)
    for stage in ("rl1", "rl2", "eval"):
        c[stage].turn_tokens = 96
        c[stage].response_tokens = 448
        c[stage].context_tokens = 512
        c[stage].max_calls = 16


def _training(c, size):
    c.stages = ("demos", "sft", "rl1", "eval", "report")
    c.problems.families = ("walk1", "walk2", "walk3")
    c.problems.num_train = 900
    c.demos.style = "dense"
    c.demos.count = 300
    c.demos.min_calls = 0
    c.demos.slip_share = 0.1
    c.sft.learning_rate = 2e-3
    c.sft.warmup_steps = 5
    c.sft.beta2 = 0.98
    c.sft.row_tokens = 512
    c.sft.rows = 8
    c.sft.micro_rows = 8
    c.sft.steps = 40
    c.sft.save_every = 100
    c.rl.learning_rate = 7e-4
    c.rl.beta2 = 0.98
    c.rl.weight_decay = 0.0
    c.rl.prompts = 8
    c.rl.group = 8
    c.rl.row_tokens = 512
    c.rl.micro_rows = 8
    c.rl1.steps = {"smoke": 2, "small": 16, "": 60, "night": 200}[size]
    c.problems.num_heldout = {"smoke": 8, "small": 32, "": 96, "night": 256}[size]
    c.eval.checkpoints = ("sft", "rl1")
    c.eval.samples = 4 if size == "small" else 8  # k of pass@k
    c.eval.no_tool = False
