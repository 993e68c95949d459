"""Rewards: final text and gold answer -> (1.0 or 0.0, verdict), cheap cases first.

Exact comparison after `answer.normalise` happens here; only what it leaves undecided goes
to a pool of killable processes (`pool.py`) apart from the model's own tool: gold answers go
there and model-written code does not. There the content of a box is read as a whole or not
at all (`read.py`), and compared by value (`compare.py`).

A comparison that comes to nothing is the answer's doing or ours. A policy can write an
answer that no comparison ends on, and must not be excused for it; a busy host must not cost
it anything. So processor time decides, which the kernel counts and limits for the
comparison alone, never the clock on the wall, and the gold answer must be comparable under
the same limits before the answer is blamed.

A problem that brings its own scorer (`reward/gym.py`) is judged by that alone, spelling
included, in processes of the same kind that nothing else is compared in.
"""

import collections
import concurrent.futures
import dataclasses
import importlib.util
import pathlib
import threading
from collections.abc import Sequence
from typing import Literal

from aster_jax import tools
from aster_jax.errors import InputError
from aster_jax.reward import answer, pool

Verdict = Literal[
    "exact",  # same after normalisation
    "equivalent",  # the same mathematics in another form
    "wrong",
    "no_answer",  # nothing boxed in the final turn
    "answer_too_costly",  # comparing it exceeds a limit, and the gold answer is not why
    "verifier_timeout",  # ours: the host was too busy to compare in time; masked
    "verifier_error",  # ours: no verifier, or a gold answer it cannot read; masked
]
INFRASTRUCTURE = ("verifier_timeout", "verifier_error")
ROOT = str(pathlib.Path(__file__).resolve().parents[2])
# The last ones are what a first comparison would import, every time anew.
PRELOAD = (
    "sympy", "math_verify", "latex2sympy2_extended", "antlr4.LL1Analyzer",
    "sympy.sets.handlers.functions", "sympy.sets.handlers.issubset", "sympy.tensor.tensor",
    "sympy.physics.units", "aster_jax.reward.warm",
)  # fmt: skip
GYM_PRELOAD = ("sympy", "reasoning_gym", "aster_jax.reward.judge")
HARMLESS = "\\boxed{1}"  # an answer that costs nothing: what is costly beside it is the gold
COSTLY_REASON = "comparing it exceeds a limit"
REMEMBERED = 20_000  # verdicts: a group of answers to one problem says the same few things


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """How answers are compared.

    `symbolic`: compare as mathematics where spelling differs; False: exact comparison only.
    `cpu_limit_s`: processor time in seconds that one comparison may take, enforced by the
    kernel; most take 0.001. `timeout_s`: of one batch of comparisons, wall time in seconds;
    generous, as a busy host must not decide about answers. `max_running`: processes at once
    (0: as many as processors). `memory_mib`: of one process, above what is preloaded.
    `decimals`: significant digits from which on a rounded decimal may stand for a number
    that no decimal is equal to (0.3333333333 for 1/3).
    `min_tier`, `allow_unsafe`: weakest isolation accepted (see `tools.ToolConfig`).
    """

    symbolic: bool = True
    cpu_limit_s: float = 5.0
    timeout_s: float = 120.0
    max_running: int = 0
    memory_mib: int = 1024
    decimals: int = 10
    min_tier: str = "B2"
    allow_unsafe: bool = False


class Verifier:
    """Scores final texts against gold answers; a context manager that owns its processes.

    May be called from several threads at once. The processes start with the first
    comparison that needs one, so a run whose answers are plain integers never starts any.
    """

    def __init__(self, config: VerifyConfig = VerifyConfig()):
        self._config = config
        self._pool = pool.Pool(
            lambda: tools.Executor(_tool_config(config)),
            config.cpu_limit_s, config.timeout_s, config.max_running,
        )  # fmt: skip
        self._gym = pool.Pool(
            lambda: tools.Executor(_gym_config(config)),
            config.cpu_limit_s, config.timeout_s, config.max_running,
        )  # fmt: skip
        self._known: collections.OrderedDict = collections.OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *failure) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; a later comparison starts new ones."""
        self._pool.close()
        self._gym.close()

    @property
    def troubles(self) -> list[str]:
        """What went wrong with the infrastructure of late, in words."""
        return [*self._pool.troubles, *self._gym.troubles]

    def score(self, items: Sequence[tuple[str, ...]]) -> list[tuple[float, Verdict]]:
        """(reward, verdict) for each (text of the final assistant turn, gold answer), with the
        scorer of the problem as a third where it has one.

        Rewards of the verdicts in `INFRASTRUCTURE` are 0.0 and mean nothing: the caller has
        to mask them. Raises nothing but InputError for an empty gold answer.
        """
        futures = [self.submit(*item) for item in items]
        return [future.result() for future in futures]

    def submit(
        self, text: str, gold: str, scorer: str = ""
    ) -> "concurrent.futures.Future[tuple[float, Verdict]]":
        """Like `score` for one item, without waiting."""
        verdict = quick_verdict(text, gold)
        if scorer and verdict not in ("no_answer", "answer_too_costly"):
            found = answer.extract(text)
            return _then(self._decide(("gym", scorer, found)), lambda v: _scored(_spelled(v, verdict)))
        if verdict is None and not self._config.symbolic:
            verdict = "wrong"
        if verdict is not None:
            return _done(_scored(verdict))
        found = answer.extract(text)
        job = ("answer", gold, found, self._config.decimals)
        return _then(self._decide(job), _scored)

    def compare(
        self, pairs: Sequence[tuple[str, str]], targets: Sequence[str] = ("latex", "expr")
    ) -> list[Verdict]:
        """Verdicts for (gold text, text with an answer in it somewhere), by math-verify.

        For prose, where an answer has to be found first; `score` never does this.
        """
        jobs = [("prose", gold, text, tuple(targets)) for gold, text in pairs]
        futures = [self._blamed(job) for job in jobs]
        return [future.result() for future in futures]

    def check_gold(self, gold: str) -> "concurrent.futures.Future[str]":
        """Why a gold answer cannot be compared with other spellings, or ""."""
        if not gold.strip():
            return _done("it is empty")
        if answer.is_integer(answer.normalise(gold)):
            return _done("")
        return _then(self._pool.submit(("gold", gold, self._config.decimals)), _reason)

    def _decide(self, job: tuple) -> "concurrent.futures.Future[Verdict]":
        """The verdict of a job (kind, gold or scorer, answer, ...), remembered unless it is ours."""
        if len(job[2]) > pool.PLAIN_LENGTH:
            return self._blamed(job)
        with self._lock:
            if job in self._known:
                self._known.move_to_end(job)
                return self._known[job]
            future = self._blamed(job)
            self._known[job] = future
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        future.add_done_callback(lambda done: self._forget(job, done))
        return future

    def _forget(self, job: tuple, done: concurrent.futures.Future) -> None:
        if done.result() in INFRASTRUCTURE:
            with self._lock:
                self._known.pop(job, None)

    def _blamed(self, job: tuple) -> "concurrent.futures.Future[Verdict]":
        """The verdict of a job; where it was too costly, the gold answer is tried alone."""
        made: concurrent.futures.Future = concurrent.futures.Future()
        kind, gold = job[:2]
        place = self._gym if kind == "gym" else self._pool

        def judged(first):
            if first.result() != pool.COSTLY:
                made.set_result(_verdict(first.result()))
                return
            alone = ("gold", gold, self._config.decimals)
            if kind == "prose":
                alone = ("prose", gold, HARMLESS, job[3])
            if kind == "gym":
                alone = ("gym_gold", gold)
            place.submit(alone).add_done_callback(tried)

        def tried(second):
            said = second.result()
            ours = said in (pool.COSTLY, COSTLY_REASON)
            if said in INFRASTRUCTURE:
                made.set_result(said)
            else:
                made.set_result("verifier_error" if ours else "answer_too_costly")

        place.submit(job).add_done_callback(judged)
        return made


def unreadable_golds(
    golds: Sequence[str], config: VerifyConfig = VerifyConfig()
) -> list[tuple[int, str]]:
    """(index, reason) of the gold answers that can only be met letter for letter, or not.

    For the loading of problems: integers cost nothing, others are read and compared with
    themselves in a pool of processes that starts only if there are any.
    """
    with Verifier(config) as verifier:
        futures = [verifier.check_gold(gold) for gold in golds]
        reasons = [future.result() for future in futures]
    return [(i, reason) for i, reason in enumerate(reasons) if reason]


def quick_verdict(text: str, gold: str) -> Verdict | None:
    """The verdict where text comparison decides, else None.

    Raises InputError when there is no gold answer: that is a bug upstream, not a 0.
    """
    if not gold.strip():
        raise InputError("the gold answer is empty; give every problem an answer")
    found = answer.extract(text)
    if not found:
        return "no_answer"
    if len(found) > answer.LONGEST:
        return "exact" if found == gold else "answer_too_costly"
    mine, theirs = answer.normalise(found), answer.normalise(gold)
    if mine == theirs and answer.same_name(found, gold):
        return "exact"
    if answer.is_integer(mine) and answer.is_integer(theirs):
        return None if "," in found + gold or "_" in found + gold else "wrong"
    return None


def _scored(verdict: Verdict) -> tuple[float, Verdict]:
    return float(verdict in ("exact", "equivalent")), verdict


def _spelled(verdict: Verdict, compared: Verdict | None) -> Verdict:
    """A scorer's verdict; a right answer spelled like the example is "exact"."""
    return "exact" if (verdict, compared) == ("equivalent", "exact") else verdict


def _verdict(said: str) -> Verdict:
    """What a job came to, in the words of a verdict."""
    known = {"equivalent": "equivalent", "wrong": "wrong", "costly_answer": "answer_too_costly"}
    if said in INFRASTRUCTURE:
        return said
    return known[said] if said in known else "verifier_error"


def _reason(said: str) -> str:
    """What a gold answer's own job came to, in words."""
    if said == pool.COSTLY:
        return COSTLY_REASON
    return f"it could not be tried ({said})" if said in INFRASTRUCTURE else said


def _done(result) -> concurrent.futures.Future:
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_result(result)
    return future


def _then(future: concurrent.futures.Future, function) -> concurrent.futures.Future:
    """A future of `function` of a future's result."""
    made: concurrent.futures.Future = concurrent.futures.Future()
    future.add_done_callback(lambda done: made.set_result(function(done.result())))
    return made


def _tool_config(config: VerifyConfig) -> tools.ToolConfig:
    return tools.ToolConfig(
        wall_limit_s=config.timeout_s,
        memory_limit_mib=config.memory_mib,
        max_running=pool.workers(config.max_running),
        min_tier=config.min_tier,
        allow_unsafe=config.allow_unsafe,
        max_calls=pool.SESSION_CALLS + 1,
        niceness=0,  # the trainer waits for it
        scratch_mib=0,
        preload=PRELOAD,
        extra_paths=(ROOT,),
    )


def _gym_config(config: VerifyConfig) -> tools.ToolConfig:
    """The same with the library of scorers, which the model's own tool does not see."""
    found = importlib.util.find_spec("reasoning_gym")
    if found is None:
        raise RuntimeError("reasoning-gym is not installed any more")
    site = str(pathlib.Path(found.origin).resolve().parents[1])
    return dataclasses.replace(_tool_config(config), preload=GYM_PRELOAD, extra_paths=(ROOT, site))
