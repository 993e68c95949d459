"""Sequences that begin alike, laid out so that what they have in common is computed once.

Trajectories of a problem share their prompt, and a policy of little entropy repeats whole
turns. A row holds the first sequence as it is, and of each further one a *branch*: the last
token that it shares with the one before, once more, and all after it. Sorted, a sequence
shares most with its neighbour, and what a token is followed by, in any of the sequences,
stands behind it without a gap: a key is seen by the queries from its own place up to where
the first sequence without it begins, which is one number per token, `until` (a tree in depth-first
order, as in Tree Training, arXiv 2511.00413).

        a b c d e            tokens     a b c d e  c x y  b z        two branches: after abc,
        a b c x y            segments   1 1 1 1 1  2 2 2  3 3        after ab
        a b z                until     10 8 5 5 5  8 8 8 10 10       (b is seen up to its copy)

The shared token that a branch begins with has a place of its own because something else is
predicted there: so a segment's entries are predicted by the one before, as in plain rows.

Whoever reads results per token goes by `places`: of each sequence, one after the other, the
place of its tokens in the row. Letters: T, tokens of a row; U, tokens of its sequences.

Plain host arithmetic, like `packing`; `model/packed_attention.py` is what reads `until`.
"""

from collections.abc import Sequence

import numpy as np

from aster_jax.data import packing

# Sequences of a row may have so many times its tokens: U = READ T.
READ = 4


def pack(tokens: Sequence[Sequence[int]], row_tokens: int) -> list[list[int]]:
    """Indices of sequences per row, each row in sorted order; deterministic.

    In sorted order, each into the row where it adds least, the fullest of such. Where sequences
    share so little that rows by length are fewer, those.
    """
    plain = packing.pack([len(t) for t in tokens], row_tokens)  # refuses what does not fit
    arrays = [np.asarray(t, np.int64) for t in tokens]
    order = sorted(range(len(arrays)), key=lambda i: (tuple(tokens[i]), i))
    rows: list[list[int]] = []
    free, unread, shared = (np.zeros(0, np.int64) for _ in range(3))
    before = np.zeros(0, np.int64)
    for i in order:
        # What two sequences share is the least that neighbours between them do.
        shared = np.minimum(shared, overlap(before, arrays[i]))
        adds = len(arrays[i]) - _kept(shared, len(arrays[i]))
        fits = (adds <= free) & (len(arrays[i]) <= unread)
        if fits.any():
            row = int(np.argmin(np.where(fits, adds * (row_tokens + 1) + free, np.iinfo(np.int64).max)))
        else:
            row = len(rows)
            rows.append([])
            free, unread = np.append(free, row_tokens), np.append(unread, READ * row_tokens)
            shared, adds = np.append(shared, 0), np.append(adds, len(arrays[i]))
        rows[row].append(i)
        free[row] -= adds[row]
        unread[row] -= len(arrays[i])
        shared[row] = len(arrays[i])
        before = arrays[i]
    if len(plain) < len(rows):
        rank = {i: at for at, i in enumerate(order)}
        return [sorted(row, key=rank.get) for row in plain]
    return rows


def overlap(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences begin with in common."""
    n = min(len(a), len(b))
    apart = np.flatnonzero(a[:n] != b[:n])
    return int(apart[0]) if len(apart) else n


def _kept(shared, length):
    """Tokens that a sequence needs no place of its own for: all, or all it shares but the last."""
    return np.where(shared >= length, length, np.maximum(shared - 1, 0))


def layout(
    sequences: Sequence[dict[str, Sequence[float]]], rows: list[list[int]], row_tokens: int
) -> dict[str, np.ndarray]:
    """Rows of arrays as `packing.layout` makes them, of sequences in the order of `pack`.

    [rows, T]: `tokens`, `segments`, `positions`, `until`, where until is 0 at padding.
    [rows, U]: `places`, `members` (the sequences of a row from 1, 0 = padding), and every
    other field of the sequences. InputError where lists of one are of different lengths.
    """
    T, U = row_tokens, READ * row_tokens
    fields = [name for name in sequences[0] if name != "tokens"]
    laid = {n: np.zeros((len(rows), T), np.int32) for n in ("tokens", "segments", "positions", "until")}
    read = {n: np.zeros((len(rows), U), np.int32) for n in ("places", "members")}
    read |= {n: np.zeros((len(rows), U), np.float32) for n in fields}
    for r, members in enumerate(rows):
        at, segment = 0, 0
        path = places = before = np.zeros(0, np.int64)
        reads = 0
        for member, i in enumerate(members, start=1):
            packing.check_alike(i, sequences[i])
            tokens = np.asarray(sequences[i]["tokens"], np.int64)
            shared = overlap(before, tokens)
            kept = int(_kept(shared, len(tokens)))
            own = slice(at, at + len(tokens) - kept)
            laid["until"][r, path[kept:]] = at  # what follows is none of theirs
            if kept < len(tokens):
                segment += 1
                laid["tokens"][r, own], laid["segments"][r, own] = tokens[kept:], segment
                laid["positions"][r, own] = np.arange(kept, len(tokens))
            fresh = np.arange(own.start, own.stop)
            path = np.concatenate([path[:kept], fresh])
            places = np.concatenate([places[:shared], fresh[shared - kept :]])
            there = slice(reads, reads + len(tokens))
            read["places"][r, there], read["members"][r, there] = places, member
            for name in fields:
                read[name][r, there] = sequences[i][name]
            at, reads, before = own.stop, there.stop, tokens
        laid["until"][r, path] = at
    return laid | read
