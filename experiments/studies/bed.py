"""The test bed of the studies: a small model on which the interaction with its tool can collapse.

A 2-layer model from scratch and problems of graded difficulty (`aster_jax/demos/walks.py`). The
base that every member starts from is trained on solutions written in text and, at first, on
traces of the tool: it answers most of the easy walks in text and the hard ones no better than a
guess, so that at first it is text that earns, while on the hard ones only the tool can. Imported
by the studies; it is no experiment of its own.
"""

from aster_jax import config, experiment

SIZES = ("smoke", "small", "", "night")
# How the base comes to be, a run after the other: traces of the tool teach a model to copy
# numbers, without which nothing goes; then it takes many solutions in text to learn to add, and
# in the last step it sees nothing else, so that it hardly uses the tool by itself. That step is
# long enough for text to earn half of the rewards (after 120 steps it earned a third), and no
# longer (after 400 steps a dense cold start hardly learned to copy numbers any more). In "told"
# traces the question asks for the tool; checks are few, and there for the vocabulary.
_BASES = (  # demos.style, problems.families, demos.count, sft.steps, sft.learning_rate
    ("text*9,dense*3,told*3,check", ("walk2", "walk3"), 1600, 500, 4e-3),
    ("text*6,dense,told", ("walk1", "walk2", "walk3"), 2400, 160, 3e-3),
    ("text*16,dense,told", ("walk1", "walk2", "walk3"), 3000, 240, 3e-3),
    ("text", ("walk1", "walk2", "walk3"), 2000, 310, 3e-3),
)


def common(name: str, size: str, forgotten: bool = True):
    """What all members of all studies share; `size` is "" or one of `SIZES`.

    "smoke" (two seeds) runs and learns nothing, "small" is made for 15 minutes. Without
    `forgotten` the base is the one before its last step, in which it would see text alone: it
    answers in text too, and learns its tool from few demonstrations.
    """
    if size not in SIZES:
        raise ValueError(f"{name}:{size} is unknown; choose one of {', '.join(filter(None, SIZES))}")
    c = config.default()
    c.name = f"{name}-{size}" if size else name
    _model(c)
    _training(c, size)
    c.study.base = tuple(base["name"] for base in bases(size, forgotten))
    c.study.seeds = tuple(range({"smoke": 2, "small": 1, "": 5, "night": 8}[size]))
    if size == "smoke":
        _shrink(c)
    return c


def bases(size: str, forgotten: bool = True) -> tuple[dict, ...]:
    """The variants that lead to the weights all others start from; `forgotten` as in `common`."""
    return tuple(
        {
            "name": f"base{i}",
            "stages": ("demos", "sft", "report"),
            "demos.style": style,
            "problems.families": families,
            "demos.count": 96 if size == "smoke" else count,
            "sft.steps": 4 if size == "smoke" else steps,
            "sft.decay_steps": steps,
            "sft.learning_rate": rate,
            "sft.warmup_steps": 10,
        }
        for i, (style, families, count, steps, rate) in enumerate(_BASES if forgotten else _BASES[:-1], 1)
    )


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
    c.model.update(experiment.read("quickstart").model)
    c.tools.preload = ("math",)  # all that this model's code ever wants
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
    c.demos.count = 400
    c.demos.min_calls = 0
    c.demos.slip_share = 0.1
    c.sft.learning_rate = 2e-3
    c.sft.warmup_steps = 5
    c.sft.beta2 = 0.98
    c.sft.row_tokens = 512
    c.sft.rows = 8
    c.sft.micro_rows = 8
    c.sft.steps = 60
    c.sft.save_every = 100
    c.rl.learning_rate = 3e-4
    c.rl.beta2 = 0.98
    c.rl.weight_decay = 0.0
    c.rl.prompts = 8
    c.rl.group = 8
    c.rl.row_tokens = 512
    c.rl.micro_rows = 8
    c.rl1.steps = {"smoke": 2, "small": 16, "": 40, "night": 150}[size]
    c.problems.num_heldout = {"smoke": 8, "small": 32, "": 96, "night": 256}[size]
    c.eval.checkpoints = ("sft", "rl1")
    c.eval.samples = 4 if size == "small" else 8  # k of pass@k
    c.eval.no_tool = False
