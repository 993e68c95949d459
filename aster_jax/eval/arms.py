"""What is evaluated: every checkpoint in every arm of every evaluation, and under which name.

An evaluation (section `eval`, and each entry of `eval.also`) asks the same checkpoints
under its own problems, sampling and budgets. Its arms differ in what the policy may do:

    main     it works with its tool
    no_tool  its first turn is begun with the words of an answer and no call is allowed, so
             that a number has to come from the head
    think    it may think as long as the budgets let it, and is shown no tool

The episodes of an arm stand in a file that is named after all that determines them. So
other budgets, problems or checkpoints are another arm beside the old one, while more
samples or more problems of the same file extend it.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib

from aster_jax import policy as policies
from aster_jax import settings, together, types, workdir
from aster_jax.data import digest
from aster_jax.demos import families
from aster_jax.rollout import live, phase, sampling

NAMES = ("main", "no_tool", "think")
FORCED_ANSWER = "The answer is \\boxed{"
# Keys beside the evaluation's own that determine what an episode is.
_TOOL = ("wall_limit_s", "memory_limit_mib", "last_value")
_ROLLOUT = ("dtype", "tool_result_tokens", "max_malformed")
_OWN = ("temperature", "top_p", "turn_tokens", "response_tokens", "context_tokens", "max_calls")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm of one evaluation at one checkpoint.

    `step` is that of the checkpoint in its stage; `section` holds the evaluation's keys
    (`settings.evaluations`); `heldout` is "generated" or the problem file; `fingerprint`
    stands for everything that determines an episode.
    """

    checkpoint: str
    step: int
    evaluation: str
    name: str
    section: object
    heldout: str
    fingerprint: str

    @property
    def file(self) -> str:
        """Where its episodes are, relative to the workdir."""
        name = f"{self.checkpoint}_{self.evaluation}_{self.name}_{self.fingerprint[:8]}"
        return f"eval/{name}.jsonl"

    @property
    def phase(self) -> str:
        """The name of its randomness: samples differ between checkpoints, not between budgets."""
        of = [] if self.evaluation == "main" else [self.evaluation]
        return "/".join(["eval", self.checkpoint, *of, self.name])

    @property
    def max_calls(self) -> int:
        """Tool calls that a trajectory may make."""
        return self.section.max_calls if self.name == "main" else 0

    @property
    def sampling(self) -> sampling.Sampling:
        """How tokens are drawn."""
        return settings.sampled(self.section)

    @property
    def limits_s(self) -> list[float]:
        """Our clock's limits, of a trajectory and of the arm, in seconds; 0 is none."""
        return [float(self.section.trajectory_s), float(self.section.deadline_s)]

    def budgets(self, config, spent_s: float) -> live.Budgets:
        """What a trajectory may use when so much of the arm's time is gone."""
        all_ = settings.budgets(config, self.section, self.section)
        left = max(all_.deadline_s - spent_s, 0.0)
        return dataclasses.replace(all_, max_calls=self.max_calls, deadline_s=left)

    def where(self) -> dict:
        """What its episode records say about where they come from."""
        return {
            "stage": "eval",
            "step": self.step,
            "checkpoint": self.checkpoint,
            "evaluation": self.evaluation,
            "arm": self.name,
            "limits_s": self.limits_s,
        }

    def requests(
        self, policy: policies.Policy, problems: list[types.Problem]
    ) -> list[live.Request]:
        """Its trajectories, a problem's side by side."""
        shown = dataclasses.replace(policy, tools=None) if self.name == "think" else policy
        opener = FORCED_ANSWER if self.name == "no_tool" else ""
        return phase.requests(problems, self.section.samples, shown, opener)


def wanted(run: workdir.Run) -> list[Arm]:
    """Every arm that the config asks for, by evaluation, checkpoint and arm, in this order.

    Checkpoints are those of `eval.checkpoints` that this run makes or has made. Raises
    InputError for one whose stage has not ended, OSError for a problem file that is gone.
    """
    made = {"base", *run.config.stages, *filter(run.has_ended, run.config.eval.checkpoints)}
    # Each arm's file, or before that the folder of its parts.
    there = set(together.once("arms", lambda: [f"eval/{p.stem}.jsonl" for p in run.path.glob("eval/*")]))
    found = []
    for evaluation, section in settings.evaluations(run.config).items():
        heldout = section.heldout or run.config.problems.heldout
        asked = _asked(run.config, section, heldout)
        spelled = _by_path(run.config, asked, heldout)
        for checkpoint in (c for c in run.config.eval.checkpoints if c in made):
            origin, step = _origin(run, checkpoint)
            for name in NAMES:
                if name != "main" and not section[name]:
                    continue
                arm, older = (
                    Arm(checkpoint, step, evaluation, name, section, heldout, _fingerprint(about))
                    for about in ([asked, origin, step, name], [spelled, origin, step, name])
                )
                found.append(older if older.file in there and arm.file not in there else arm)
    return found


def _fingerprint(about: list) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _origin(run, checkpoint) -> tuple[str, int]:
    """The stage and step that a checkpoint's parameters come from; a stage of no steps has
    those that it started from."""
    while checkpoint != "base":
        step = policies.handed_on(run, checkpoint)
        if step:
            return checkpoint, step
        checkpoint = policies.starts_from(run, checkpoint)
    return "base", 0


def _asked(config, section, heldout) -> dict:
    """What determines an evaluation's episodes beside the checkpoint, as JSON values.

    Files and weights count by what they hold, wherever they stand; a file of problems also by its
    stem, which the problems' ids begin with.
    """
    if heldout == "generated":
        named = config.problems.families
        held = [list(named), config.problems.digits, *filter(None, [families.version(named)])]
    else:
        held = digest.of(heldout)
    asked = [pathlib.Path(heldout).stem, held, *filter(None, [config.problems.suffix])]
    model = {key: value for key, value in config.model.items() if key != "remat"}
    if model["source"] != "scratch" and pathlib.Path(model["source"]).exists():
        model["source"] = digest.of(config.model.source)
    return {
        "heldout": asked,
        "seed": config.seed,
        "model": model,
        "tools": [config.tools[key] for key in _TOOL],
        "rollout": [config.rollout[key] for key in _ROLLOUT],
        "own": [section[key] for key in _OWN],
    }


def _by_path(config, asked, heldout) -> dict:
    """The same as older versions had it, with paths in place of what stands there: an arm that was
    begun under that name goes on under it."""
    model = {**asked["model"], "source": config.model.source}
    return {**asked, "heldout": [heldout, *asked["heldout"][1:]], "model": model}


def by_players(wanted_: list[Arm]) -> list[tuple[sampling.Sampling, list[list[Arm]]]]:
    """Arms by how they are sampled (that is compiled in), then by checkpoint."""
    groups: dict[sampling.Sampling, dict[str, list[Arm]]] = {}
    for arm in wanted_:
        groups.setdefault(arm.sampling, {}).setdefault(arm.checkpoint, []).append(arm)
    return [(how, list(members.values())) for how, members in groups.items()]


def pairs(wanted_: list[Arm]) -> list[tuple[Arm, Arm]]:
    """Every checkpoint with every later one, within an evaluation and an arm."""
    groups: dict[tuple[str, str], list[Arm]] = {}
    for arm in wanted_:
        groups.setdefault((arm.evaluation, arm.name), []).append(arm)
    return [pair for members in groups.values() for pair in itertools.combinations(members, 2)]


def covered(config, arm: Arm, is_complete: bool) -> dict:
    """What DONE.json records of an arm: what it covers, and whether all of it is there."""
    return {
        "samples": arm.section.samples,
        "num_heldout": config.problems.num_heldout,
        "limits_s": arm.limits_s,
        "complete": is_complete,
    }


def are_covered(config, wanted_: list[Arm], done: dict) -> bool:
    """Whether a finished evaluation covers these arms and no others, with nothing lost.

    `done` is what DONE.json holds.
    """
    known = done["arms"] if "arms" in done else {}
    return known == {arm.file: covered(config, arm, True) for arm in wanted_}
