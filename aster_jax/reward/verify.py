"""Rewards: final text and gold answer -> (1.0 or 0.0, verdict), cheap cases first.

Exact comparison after `answer.normalise` happens here; only what it leaves undecided goes
to math-verify, in a pool of killable processes apart from the model's own tool: gold
answers go there and model-written code does not. math-verify's alarm-based time-outs are
not used; they need the main thread and cannot stop every computation.

A comparison that comes to nothing is the answer's doing or ours. A policy can write an
answer that no comparison ends on (a tower of powers), and must not be excused for it; a busy
host must not cost it anything. So the processor time decides, which the kernel counts for the
comparison alone, never the clock on the wall, and the gold answer compared with a plain
number must pass under the same limits before the answer is blamed.
"""

import dataclasses
import pathlib
import threading
from collections.abc import Sequence
from typing import Literal

from aster_jax import tools
from aster_jax.reward import answer

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
HARMLESS = "\\boxed{1}"  # an answer that costs nothing: what is costly beside it is the gold
# How a computation brings its own process down: the stack, the allocator, the arithmetic.
FAULTS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
ROOT = str(pathlib.Path(__file__).resolve().parents[2])
# The last ones are what a first comparison would import, every time anew.
PRELOAD = (
    "sympy", "math_verify", "latex2sympy2_extended", "antlr4.LL1Analyzer",
    "sympy.sets.handlers.functions", "sympy.sets.handlers.issubset", "sympy.tensor.tensor",
    "sympy.physics.units", "aster_jax.reward.warm",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """How answers are compared.

    `symbolic`: ask math-verify where spelling differs; False: exact comparison only.
    `cpu_limit_s`: processor time in seconds that one comparison may take; most take 0.05.
    `timeout_s`: of one comparison, wall time in seconds; generous, as a busy host must not
    decide about answers. `max_running`: comparisons at once (0: twice the processors). `memory_mib`: of one comparison, above
    the preloaded process.
    `decimals`: numbers are equal when they agree to so many digits after the point.
    `min_tier`, `allow_unsafe`: weakest isolation accepted (see `tools.ToolConfig`).
    """

    symbolic: bool = True
    cpu_limit_s: float = 5.0
    timeout_s: float = 30.0
    max_running: int = 0
    memory_mib: int = 1024
    decimals: int = 6
    min_tier: str = "B2"
    allow_unsafe: bool = False


class Verifier:
    """Scores final texts against gold answers; a context manager that owns its processes.

    May be called from several threads at once. The processes start with the first comparison that needs one, so a run whose answers
    are plain integers never starts any.
    """

    def __init__(self, config: VerifyConfig = VerifyConfig()):
        self._config = config
        self._executor: tools.Executor | None = None
        self._starting = threading.Lock()

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *failure) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; a later comparison starts new ones."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def score(self, items: Sequence[tuple[str, str]]) -> list[tuple[float, Verdict]]:
        """(reward, verdict) for each (text of the final assistant turn, gold answer).

        Rewards of the verdicts in `INFRASTRUCTURE` are 0.0 and mean nothing: the caller
        has to mask them.
        """
        verdicts = [quick_verdict(text, gold) for text, gold in items]
        open_ = [i for i, verdict in enumerate(verdicts) if verdict is None]
        if not self._config.symbolic:
            decided = ["wrong"] * len(open_)
        else:
            decided = self.compare(
                [(_boxed(items[i][1]), _boxed(answer.extract(items[i][0]))) for i in open_]
            )
        for i, verdict in zip(open_, decided):
            verdicts[i] = verdict
        return [(float(v in ("exact", "equivalent")), v) for v in verdicts]

    def compare(
        self, pairs: Sequence[tuple[str, str]], targets: Sequence[str] = ("latex", "expr")
    ) -> list[Verdict]:
        """Symbolic verdicts for (gold text, answer text), each in a process of its own."""
        verdicts = self._check(pairs, targets)
        blamed = [i for i, verdict in enumerate(verdicts) if verdict == "answer_too_costly"]
        alone = self._check([(pairs[i][0], HARMLESS) for i in blamed], targets)
        for i, verdict in zip(blamed, alone):
            if verdict == "answer_too_costly":
                verdicts[i] = "verifier_error"  # the gold answer is: our data's fault
            elif verdict in INFRASTRUCTURE:
                verdicts[i] = verdict
        return verdicts

    def _check(self, pairs, targets) -> list[Verdict]:
        """A process for each pair; verdicts as if only the answer could be too costly."""
        if not pairs:
            return []
        with self._starting:
            if self._executor is None:
                self._executor = tools.Executor(_tool_config(self._config))
        running = []
        for pair in pairs:
            session = self._executor.open(seed=0)
            running.append((session, self._executor.submit(session, self._cell(pair, targets))))
        verdicts = []
        for session, future in running:
            verdicts.append(_read(future.result(), self._config.cpu_limit_s))
            self._executor.close(session)
        return verdicts

    def _cell(self, pair, targets) -> str:
        arguments = f"*{tuple(pair)!r}, {tuple(targets)!r}, {self._config.decimals}"
        return f"from aster_jax.reward import check\ncheck.compare({arguments})"


def quick_verdict(text: str, gold: str) -> Verdict | None:
    """The verdict where text comparison decides, else None.

    Raises ValueError when there is no gold answer: that is a bug upstream, not a 0.
    """
    if not gold.strip():
        raise ValueError("the gold answer is empty; give every problem an answer")
    found = answer.extract(text)
    if found is None or not found:
        return "no_answer"
    mine, theirs = answer.normalise(found), answer.normalise(gold)
    if mine == theirs:
        return "exact"
    if answer.is_integer(mine) and answer.is_integer(theirs):
        return "wrong"
    if answer.is_side_by_side(mine) or answer.is_side_by_side(theirs):
        return "wrong"  # math-verify would add them: "3 4" is 7 to it, and "3 1/2" is 2
    return None


def _boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"


def _tool_config(config: VerifyConfig) -> tools.ToolConfig:
    return tools.ToolConfig(
        wall_limit_s=config.timeout_s,
        memory_limit_mib=config.memory_mib,
        max_running=config.max_running,
        min_tier=config.min_tier,
        allow_unsafe=config.allow_unsafe,
        max_calls=1,
        niceness=0,  # the trainer waits for it
        scratch_mib=0,
        preload=PRELOAD,
        extra_paths=(ROOT,),
    )


def _read(result: tools.ToolResult, cpu_limit_s: float) -> Verdict:
    """What the process said, or whose fault it is that it did not."""
    if result.is_infra:
        return "verifier_error"
    if result.cpu_s > cpu_limit_s:  # also if it did end: the host's load must not matter
        return "answer_too_costly"
    if result.status == "timeout":
        return "verifier_timeout"
    if result.status == "ok":
        said = result.stdout.strip().rsplit("\n", 1)[-1]
        return said if said in ("equivalent", "wrong") else "verifier_error"
    if result.status == "crashed" and result.error_message not in FAULTS:
        return "verifier_error"  # killed from outside (the host is out of memory), or ended
    return "answer_too_costly"  # in memory, depth or length
