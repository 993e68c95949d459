"""Problem files -> `types.Problem`, overlap between files, and the order of training.

Formats are recognised by their fields, so a file needs no declaration: the verl format of
the paper's data (`prompt`, `reward_model.ground_truth`), MATH-500 (`problem`, `answer`),
GSM8K (the answer follows `#### `), AIME, AMC (answers are floats such as 27.0) and plain
`{"question": ..., "answer": ...}`; as JSON lines, one JSON list, or parquet.
"""

import functools
import hashlib
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from aster_jax import types
from aster_jax.data import golds, messages
from aster_jax.data import rows as table_rows
from aster_jax.errors import InputError

_INSTRUCTION = re.compile(
    r"please reason step by step,? and put your final answer within \\boxed\{\}\.?"
    r"|solve the following math problem step by step\.?", re.IGNORECASE,
)  # fmt: skip
_SYSTEM = "would be lost: put what it says into the question, or remove it"
MIN_CONTAINED = 50  # letters and digits from which a question inside another is a copy


def load(path: str | pathlib.Path, duplicates: str = "reject") -> list[types.Problem]:
    """All problems of a .jsonl, .json or .parquet file, in its order.

    Ids are `STEM/ID` with the file's own id, or a hash of the question: they do not change
    with order or seed. A question that occurs twice is an error with `duplicates` =
    "reject" and kept once with "drop" (`num_repeats` tells how many rows that leaves out);
    with two answers it is an error always, as nothing tells which one is right.

    Raises ValueError naming file, row and field for anything that is not a problem with an
    answer, and for an empty file.
    """
    if duplicates not in ("reject", "drop"):
        raise InputError(f"duplicates={duplicates!r}: use 'reject' or 'drop'")
    path = pathlib.Path(path)
    rows = _rows(path)
    if not rows:
        raise InputError(f"{path} holds no problems; give a file with at least one")
    found, first_row, answers, ids = [], {}, {}, {}
    float_fields = golds.float_fields([record for _, record in rows])
    for row, record in rows:
        problem = _problem(record, path, row, float_fields)
        if problem.question in first_row:
            first = first_row[problem.question]
            if answers[problem.question] != problem.answer:
                raise InputError(
                    f"{path} row {row} repeats the question of row {first} with another answer; "
                    "remove the wrong one"
                )
            if duplicates == "drop":
                continue
            raise InputError(
                f"{path} row {row} repeats the question of row {first}; "
                "remove one, or load it with duplicates='drop'"
            )
        if problem.id in ids:
            raise InputError(
                f"{path} rows {ids[problem.id]} and {row} have the same id {problem.id!r} "
                "and different questions; give them ids of their own"
            )
        first_row[problem.question] = ids[problem.id] = row
        answers[problem.question] = problem.answer
        found.append(problem)
    return found


def rows_of(path: str | pathlib.Path) -> dict[str, int]:
    """The row of every question of a file, the first where it is repeated."""
    path = pathlib.Path(path)
    found: dict[str, int] = {}
    for row, record in _rows(path):
        found.setdefault(_question(record, f"{path} row {row}"), row)
    return found


def num_repeats(path: str | pathlib.Path) -> int:
    """Rows of a problem file whose question stands in an earlier row."""
    path = pathlib.Path(path)
    rows = _rows(path)
    return len(rows) - len({_question(record, f"{path} row {row}") for row, record in rows})


def _rows(path: pathlib.Path) -> list[tuple[int, object]]:
    return table_rows.read(path, "problem", "problems.source and heldout")


def _problem(record, path: pathlib.Path, row: int, float_fields) -> types.Problem:
    where = f"{path} row {row}"
    if not isinstance(record, dict):
        raise InputError(f"{where} is not an object with fields: {str(record)[:60]!r}")
    question = _question(record, where)
    answer = golds.of(record, where, float_fields)
    own = _own_id(record)
    family = next((record[f] for f in ("family", "data_source") if _is_text(record, f)), None)
    if any("\ud800" <= c <= "\udfff" for c in question + answer + (own or "") + (family or "")):
        raise InputError(f"{where} holds half of a surrogate pair, which is no character")
    digest = hashlib.sha256(question.encode()).hexdigest()[:12]
    return types.Problem(
        id=f"{path.stem}/{digest if own is None else own}",
        question=question,
        answer=answer,
        family=path.stem if family is None else family,
    )


def _is_text(record: dict, field: str) -> bool:
    return field in record and isinstance(record[field], str) and bool(record[field].strip())


def _question(record: dict, where: str) -> str:
    """The verl prompt exactly as it is (its newlines belong to it), else the plain field.

    A problem is a question alone: a row whose prompt says more than its user is refused.
    """
    for field in ("system", "system_prompt", "system_message"):
        if _is_text(record, field):
            raise InputError(f"{where}: field {field!r} ({record[field]!r:.60}) {_SYSTEM}")
    if "prompt" in record and not isinstance(record["prompt"], str | None):
        return _from_prompt(record["prompt"], where)
    for field in ("problem", "question", "prompt"):
        if _is_text(record, field):
            return record[field].strip()
    raise InputError(
        f"{where} has no question: none of the fields 'prompt', 'problem', 'question' holds text "
        f"(fields: {', '.join(record)})"
    )


def _from_prompt(prompt, where: str) -> str:
    where = f"{where}: field 'prompt'"
    if not isinstance(prompt, list):
        raise InputError(f"{where} is {prompt!r:.60}, not text or a list of messages")
    users = []
    for i, message in enumerate(prompt):
        read = messages.read_one(message, f"{where}, message {i}")
        if read.role == "user":
            users.append(read.content)
        elif read.role == "system" and read.content.strip():
            raise InputError(f"{where} has a system message ({read.content!r:.60}), which {_SYSTEM}")
        elif read.role != "system":
            raise InputError(f"{where} must hold exactly one user message; message {i} is "
                             f"a turn of role {read.role!r}")  # fmt: skip
    if len(users) != 1 or not users[0].strip():
        raise InputError(f"{where} must hold exactly one user message")
    return users[0]


def _own_id(record: dict) -> str | None:
    """The file's own id of a row, from the most specific field there is."""
    extra = record["extra_info"] if "extra_info" in record else None
    if isinstance(extra, dict) and "index" in extra and extra["index"] is not None:
        return str(extra["index"])
    for field in ("unique_id", "id"):
        if field in record and isinstance(record[field], (str, int)):
            return str(record[field])
    return None


def overlap_key(question: str) -> str:
    """What is compared between files: letters and digits only, without instructions."""
    return re.sub(r"[\W_]+", "", without_instruction(question)).casefold()


def without_instruction(question: str) -> str:
    """A question without the usual sentences about how to answer it."""
    return _INSTRUCTION.sub("", question)


def overlaps(
    found: Sequence[types.Problem], held: Sequence[types.Problem]
) -> list[tuple[types.Problem, types.Problem]]:
    """Pairs (of `found`, of `held`) that are the same question up to spelling.

    Equal after `overlap_key`, or one inside the other when it is long enough to be no
    coincidence. A paraphrase is not found.
    """
    exact: dict[str, list[types.Problem]] = {}
    for problem in held:
        exact.setdefault(overlap_key(problem.question), []).append(problem)
    long = [key for key in exact if len(key) >= MIN_CONTAINED]
    pairs = []
    for problem in found:
        key = overlap_key(problem.question)
        matching = [key] if key in exact else []
        matching += [
            other
            for other in long
            if other != key and (other in key or (len(key) >= MIN_CONTAINED and key in other))
        ]
        pairs += [(problem, other) for match in matching for other in exact[match]]
    return pairs


def without_overlap(
    found: Sequence[types.Problem], held: Sequence[types.Problem]
) -> list[types.Problem]:
    """The training problems that are no copy of a held-out one, in their order."""
    copies = {mine.id for mine, _ in overlaps(found, held)}
    return [problem for problem in found if problem.id not in copies]


def batch(num_problems: int, size: int, step: int, seed: int) -> list[int]:
    """Indices of the problems of training step `step` (from 0): needs no other state.

    Epochs are shuffled anew; what does not fill a step is carried over to the front of the
    next epoch, so no problem is missed and none occurs twice in a step.
    """
    if not 1 <= size <= num_problems:
        raise InputError(
            f"a step needs {size} different problems and there are {num_problems}; "
            "add problems or lower the number per step"
        )
    epoch, within = divmod(step, num_problems // size)
    return list(_order(num_problems, size, epoch, seed)[within * size : (within + 1) * size])


def spare(
    num_problems: int, taken: set[int], size: int, step: int, attempt: int, seed: int
) -> list[int]:
    """Indices of up to `size` problems that a step (from 0) has not `taken` yet, for its refill
    number `attempt`: shuffled anew each time, and needing no other state."""
    digest = hashlib.sha256(f"refill/{seed}/{step}/{attempt}".encode()).digest()
    rng = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "big")))
    shuffled = rng.permutation(num_problems).tolist()
    return [i for i in shuffled if i not in taken][:size]


@functools.lru_cache(maxsize=4)
def _order(num_problems: int, size: int, epoch: int, seed: int) -> tuple[int, ...]:
    """The order of an epoch: the last one's remainder, then the others shuffled."""
    remainder = num_problems % size
    carried = np.zeros(0, np.int64)
    for at in range(epoch + 1):
        digest = hashlib.sha256(f"order/{seed}/{at}".encode()).digest()
        rng = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "big")))
        shuffled = rng.permutation(num_problems)
        order = np.concatenate([carried, shuffled[~np.isin(shuffled, carried)]])
        carried = order[num_problems - remainder :]
    return tuple(order.tolist())
