"""What a run left in its workdir, read back with errors that name file and line.

Parts that are not there are empty: a report can be made of a run at any time. Episode
files are read one line at a time and no trajectory is kept, so that a long run's gigabytes
of text do not have to fit in memory; whoever wants the trajectories is called with each.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator

from aster_jax.errors import InputError
from aster_jax.report import collapse

RL_STAGES = ("rl1", "rl2")
_KINDS = {dict: "an object", list: "a list"}
_REMEDY = (
    "the file was edited or a disk was full: remove it, and the command of the run, given again "
    "with the same config, writes it anew"
)
_CONFIG_KEYS = ("name", "stages")
_METRIC_KEYS = ("stage", "step", "time_s")
_RESULT_KEYS = (
    "checkpoint", "step", "evaluation", "arm", "heldout", "tokens", "turn_tokens",
    "context_tokens", "max_calls", "temperature", "top_p", "file", "samples", "complete",
    "n_problems", "k", "masked", "cut", "avg_at_k", "avg_low", "avg_high",
    "avg_upper", "pass_at_k", "pass_low", "pass_high", "pass_curve", "maj_at_k", "calls_mean",
    "calls_low", "calls_high", "by_family", "end", "call_status", "tokens_mean",
)
_DIFFERENCE_KEYS = ("evaluation", "arm", "before", "after", "delta", "low", "high", "n")
_EPISODE_KEYS = (
    "stage", "step", "checkpoint", "arm", "problem_id", "family", "question", "gold", "sample",
    "reward", "verdict", "end", "num_tokens", "num_model_tokens", "calls", "spans",
)


@dataclasses.dataclass(frozen=True)
class RunRecords:
    """A run as far as it got.

    `finished` holds each finished stage's closing numbers, `metrics` the lines of
    metrics.jsonl, `results` those of eval/results.json that the config asks for and `earlier`
    those of settings that it had before, `differences` those between checkpoints.
    `eval_rows` and `rl_rows` measure every episode.
    """

    config: dict
    finished: dict[str, dict]
    metrics: list[dict]
    results: list[dict]
    earlier: list[dict]
    differences: list[dict]
    eval_rows: list[collapse.Measured]
    rl_rows: list[collapse.Measured]


# Called with an episode's record, its file (from the workdir on) and its line's number.
Visit = Callable[[dict, str, int], None]


def _nothing(record: dict, file: str, line: int) -> None:
    pass


def read(workdir: pathlib.Path, visit: Visit = _nothing) -> RunRecords:
    """Everything the report needs from `workdir`; `visit` is called with every episode that
    counts: those of the evaluation, then those of training, the newest step first.

    Raises ValueError for a directory that no run made, and for a line that cannot be read,
    with its file and number.
    """
    config_path = workdir / "config.json"
    config = whole(config_path)
    # A model has a config.json too, which knows nothing of stages.
    if config is None or not {*_CONFIG_KEYS} <= {*config}:
        what = "missing" if config is None else "of no run"
        raise InputError(
            f"{config_path} is {what}: {workdir} is not the workdir of a run; "
            "give the directory that main was started with"
        )
    markers = {stage: whole(workdir / stage / "DONE.json") for stage in config["stages"]}
    finished = {stage: numbers for stage, numbers in markers.items() if numbers is not None}
    metrics = list(lines(workdir / "metrics.jsonl", _METRIC_KEYS))
    all_results = _entries(workdir / "eval" / "results.json", _RESULT_KEYS)
    differences = _entries(workdir / "eval" / "differences.json", _DIFFERENCE_KEYS)
    asked = whole(workdir / "eval" / "asked.json", list) or []
    results = [r for r in all_results if r["file"] in asked]
    earlier = [r for r in all_results if r["file"] not in asked]
    eval_rows, rl_rows = [], []
    for result in results:
        eval_rows += _episodes(workdir, result["file"], visit, result)
    for stage in reversed(RL_STAGES):
        for path in sorted((workdir / stage / "episodes").glob("step_*.jsonl"), reverse=True):
            rl_rows += _episodes(workdir, str(path.relative_to(workdir)), visit)
    rl_rows.sort(key=lambda row: (row.stage, row.step))
    return RunRecords(config, finished, metrics, results, earlier, differences, eval_rows, rl_rows)


def episodes(workdir: pathlib.Path) -> list[dict]:
    """Every episode that counts, whole, in the order of `read`: for a run that fits in memory."""
    found: list[dict] = []
    read(workdir, lambda record, file, line: found.append(record))
    return found


def _episodes(workdir, file, visit, result=None) -> list[collapse.Measured]:
    """Measured rows of a file's episodes, those that a result counts."""
    rows, problems = [], set()
    for number, record in enumerate(lines(workdir / file, _EPISODE_KEYS), start=1):
        if result is not None and not _counts(record, result, problems):
            continue
        try:
            rows.append(collapse.measure(record))
            visit(record, file, number)
        except (KeyError, TypeError, AttributeError, IndexError) as e:
            where = f"{workdir / file}, line {number}"
            raise InputError(f"{where}: not an episode record ({e!r})") from e
    return rows


def _counts(record, result, problems) -> bool:
    """Whether an evaluated episode belongs to a result.

    A file may hold more samples than the result is of, and after its problems others that
    were evaluated before, when more were asked for. `problems` collects those seen.
    """
    if len(problems) < result["n_problems"]:
        problems.add(record["problem_id"])
    return record["problem_id"] in problems and record["sample"] < result["samples"]


def lines(path: pathlib.Path, keys) -> Iterator[dict]:
    """The objects of a JSON-lines file, which have these keys; none when it does not exist.

    A last line without an end is what a kill left of it: passed over, as by the run itself.
    Raises InputError, with file and line, for any other that is no such object.
    """
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as f:
        for number, line in enumerate(f, start=1):
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as e:
                if not line.endswith("\n"):
                    return
                raise InputError(
                    f"{where}: not JSON ({e.msg}); the file was edited or a disk was full: "
                    "remove the line, or run the stage again"
                ) from e
            _require(record, keys, where)
            yield record


def _entries(path: pathlib.Path, keys) -> list[dict]:
    """The objects of a JSON file that holds a list of them; none when it does not exist."""
    found = whole(path, list) or []
    for i, entry in enumerate(found):
        _require(entry, keys, f"{path}, entry {i + 1}")
    return found


def _require(record, keys, where):
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected an object, found {type(record).__name__}")
    missing = [k for k in keys if k not in record]
    if missing:
        raise InputError(f"{where}: keys {missing} are missing")


def whole(path: pathlib.Path, kind: type = dict):
    """The value of one of a run's JSON files, None when it does not exist.

    Raises InputError, with the file, for what is not JSON or no `kind` (dict or list).
    """
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        where = f"{path}, line {e.lineno}" if isinstance(e, json.JSONDecodeError) else path
        said = e.msg if isinstance(e, json.JSONDecodeError) else str(e)
        raise InputError(f"{where}: not JSON ({said}); {_REMEDY}") from e
    if not isinstance(found, kind):
        raise InputError(f"{path}: expected {_KINDS[kind]}, found {type(found).__name__}; {_REMEDY}")
    return found
