"""Token sequences to rows of fixed length, and rows to the batches of the train step.

Pure host arithmetic. Sequences are never cut: one that does not fit a row is an error
here and a filter upstream (the paper drops over-long demonstrations, section 2).
"""

import bisect
import random
from collections.abc import Sequence

import grain
import numpy as np

from aster_jax import types
from aster_jax.errors import InputError


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Indices of sequences per row, first-fit by decreasing length; deterministic.

    Rows come in the order of their longest sequence, so those of one microbatch cost about alike.
    """
    _check_fits(lengths, row_tokens)
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows: list[list[int]] = []
    free: list[int] = []
    for i in order:
        for row, space in enumerate(free):
            if lengths[i] <= space:
                rows[row].append(i)
                free[row] -= lengths[i]
                break
        else:
            rows.append([i])
            free.append(row_tokens - lengths[i])
    return rows


def pack_mixed(lengths: Sequence[int], row_tokens: int, seed: int) -> list[list[int]]:
    """The same in an order drawn from `seed`, each into the fullest row that holds it.

    For data of which a step takes a few rows: by length those would hold demonstrations of one
    kind, as length goes with the kind, and each step would pull towards another one. Rows are
    about as full (experiments/README.md, "What a row holds").
    """
    _check_fits(lengths, row_tokens)
    order = list(range(len(lengths)))
    random.Random(f"rows/{seed}").shuffle(order)
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (space, row), ascending
    for i in order:
        at = bisect.bisect_left(free, (lengths[i], -1))
        space, row = free.pop(at) if at < len(free) else (row_tokens, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(i)
        bisect.insort(free, (space - lengths[i], row))
    return rows


def _check_fits(lengths, row_tokens):
    longest = max(lengths, default=0)
    if longest > row_tokens:
        raise InputError(
            f"a sequence of {longest} tokens does not fit a row of {row_tokens}; "
            "raise row_tokens or filter long sequences first"
        )


def layout(
    sequences: Sequence[dict[str, Sequence[float]]], rows: list[list[int]], row_tokens: int
) -> dict[str, np.ndarray]:
    """Rows of arrays [rows, row_tokens]: every field of the sequences side by side.

    Each sequence is a dict of equally long per-token lists with at least `tokens`. Adds
    `segments` (1, 2, ... per row, 0 = padding) and `positions` (from 0 per sequence). Raises
    InputError where there is no sequence, or lists of one are of different lengths.
    """
    if not sequences:
        raise InputError("there is no sequence to lay out in rows")
    shape = (len(rows), row_tokens)
    integer = ("tokens", "segments", "positions")
    names = [*sequences[0], "segments", "positions"]
    out = {n: np.zeros(shape, np.int32 if n in integer else np.float32) for n in names}
    for r, members in enumerate(rows):
        at = 0
        for segment, i in enumerate(members, start=1):
            check_alike(i, sequences[i])
            stop = at + len(sequences[i]["tokens"])
            for name, values in sequences[i].items():
                out[name][r, at:stop] = values
            out["segments"][r, at:stop] = segment
            out["positions"][r, at:stop] = np.arange(stop - at)
            at = stop
    return out


def check_alike(i: int, sequence: dict[str, Sequence[float]]) -> None:
    """InputError where the lists of sequence `i` are of different lengths."""
    length = len(sequence["tokens"])
    for name, values in sequence.items():
        if len(values) != length:
            raise InputError(f"sequence {i} has {length} tokens and {len(values)} of {name}")


def microbatches(rows: dict[str, np.ndarray], micro_rows: int, max_micro: int) -> tuple[dict, int]:
    """Arrays [max_micro, micro_rows, T], padded with empty rows, and how many are in use."""
    if micro_rows < 1:
        raise InputError(f"micro_rows={micro_rows} must be at least 1")
    count = next(iter(rows.values())).shape[0]
    used = -(-count // micro_rows)
    if used > max_micro:
        raise InputError(f"{count} rows need {used} microbatches of {micro_rows}, not {max_micro}")

    def pad(x):
        padded = np.zeros((max_micro * micro_rows, *x.shape[1:]), x.dtype)
        padded[:count] = x
        return padded.reshape(max_micro, micro_rows, *x.shape[1:])

    return {name: pad(x) for name, x in rows.items()}, used


def sft_batch(rows: dict[str, np.ndarray], micro_rows: int) -> tuple[types.SftBatch, int]:
    """An SFT batch whose weights are the mask over the batch's trained tokens."""
    trained = rows["mask"].sum()
    if trained == 0:
        raise InputError("a batch has no trained token; check the demonstrations' loss mask")
    count = rows["tokens"].shape[0]
    arrays, used = microbatches(rows, micro_rows, -(-count // micro_rows))
    batch = types.SftBatch(
        tokens_BT=arrays["tokens"],
        positions_BT=arrays["positions"],
        segments_BT=arrays["segments"],
        weights_BT=(arrays["mask"] / trained).astype(np.float32),
    )
    return batch, used


def sft_rows(
    demos: Sequence[types.Demo], row_tokens: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Packed demonstrations as a list of single rows (dicts of [row_tokens] arrays)."""
    sequences = [{"tokens": d.tokens, "mask": d.loss_mask} for d in demos]
    rows = pack_mixed([len(d.tokens) for d in demos], row_tokens, seed)
    packed = layout(sequences, rows, row_tokens)
    return [{k: v[r] for k, v in packed.items()} for r in range(packed["tokens"].shape[0])]


def sft_iterator(rows: Sequence[dict[str, np.ndarray]], per_step: int, seed: int):
    """Endless batches of `per_step` rows, reshuffled each epoch; its position can be saved.

    A grain iterator: `get_state()` / `set_state()` carry the position.
    """
    dataset = grain.MapDataset.source(_Rows(rows)).seed(seed).shuffle().repeat()
    # Grain's own 500 batches ahead would be gigabytes at 32k tokens.
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(dataset.batch(per_step, drop_remainder=True).to_iter_dataset(ahead))


class _Rows:
    """Random access over rows, the form grain reads."""

    def __init__(self, rows):
        self._rows = list(rows)

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, i):
        return self._rows[i]
