"""Which key somebody meant who wrote one that is not there.

Names are compared word by word: the same word, one that begins with the other (`temp`), one
that leaves letters out (`ctx`), a slip of the hand. A name of initials (`lr`) is one too, and
so are a few that other libraries use. The section that was named counts, but less.
"""

import difflib
import functools

# What the same thing is called elsewhere.
ELSEWHERE = {
    "hidden_size": ("d_model",), "intermediate_size": ("d_ff",), "path": ("source",),
    "batch_size": ("rows", "prompts"), "bs": ("rows", "prompts"), "bsz": ("rows", "prompts"),
    "num_generations": ("group",), "rollouts": ("group",), "n": ("group", "count", "samples"),
    "k": ("samples",), "max_new_tokens": ("response_tokens",), "max_tokens": ("response_tokens",),
    "max_length": ("context_tokens",), "max_grad_norm": ("clip_norm",), "max_turns": ("max_calls",),
    "grad_clip": ("clip_norm",), "gradient_clip": ("clip_norm",), "eps": ("clip_high",),
    "epsilon": ("clip_high",), "timeout": ("wall_limit_s",), "tp": ("tensor",), "dp": ("data",),
    "dtype": ("dtype", "compute_dtype"), "test": ("heldout",),
}  # fmt: skip
# Of keys that are alike in the same way, those of the earlier section.
ORDER = ("", "rl", "sft", "rollout", "model", "problems", "demos", "tools", "mesh")
LEAST, LEAST_THERE = 0.55, 0.42  # likeness below which nothing is suggested; in the section named


def nearest(unknown: str, known: list[str]) -> str:
    """The key of `known`, all dotted names, that `unknown` was most likely meant for; "" for none."""
    section, _, name = unknown.strip().lower().replace("-", "_").rpartition(".")
    best, found = (0.0, 0.0, 0), ""
    for key in known:
        of, _, last = key.rpartition(".")
        like = _like_name(name, last)
        if like < (LEAST_THERE if section == of and section else LEAST):
            continue
        rank = -ORDER.index(of) if of in ORDER else -len(ORDER)
        total = 0.75 * like + 0.25 * _like_section(section, of)
        if (total, like, rank) > best or not found:
            best, found = (total, like, rank), key
    return found


def _like_section(asked, known) -> float:
    return 1.0 if asked == known else 0.6 * difflib.SequenceMatcher(None, asked, known).ratio()


@functools.lru_cache(1000)
def _like_name(asked: str, known: str) -> float:
    """From 0 to 1, which only the name itself is."""
    if not asked or not known:
        return 0.0
    if asked == known:
        return 1.0
    if known in ELSEWHERE.get(asked, ()):
        return 0.95
    theirs, ours = asked.split("_"), known.split("_")
    if len(ours) > 1 and asked == "".join(word[:1] for word in ours):
        return 0.95
    pairs = [max(_like_word(word, other) for other in ours) for word in theirs]
    back = [max(_like_word(word, other) for word in theirs) for other in ours]
    words = 0.65 * sum(pairs) / len(pairs) + 0.35 * sum(back) / len(back)
    return 0.95 * max(words, difflib.SequenceMatcher(None, asked, known).ratio() ** 1.5)


def _like_word(asked: str, known: str) -> float:
    if asked == known:
        return 1.0
    if min(len(asked), len(known)) < 2:
        return 0.0
    if known.startswith(asked) or asked.startswith(known):
        return 0.9
    if asked[0] == known[0] and _leaves_out(asked, known):
        return 0.75
    ratio = difflib.SequenceMatcher(None, asked, known).ratio()
    return ratio * 0.9 if ratio > 0.7 else 0.0


def _leaves_out(short: str, long: str) -> bool:
    """Whether `short` is `long` with letters left out."""
    rest = iter(long)
    return all(letter in rest for letter in short)
