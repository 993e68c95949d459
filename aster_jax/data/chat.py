"""Chat markup: messages -> ids with a loss mask, and sampled ids -> a call or an answer.

The only file that knows what a turn looks like; SFT, RL and eval all come here. Styles, all
ChatML: `qwen3` (the model opens its think block), `qwen3_thinking_2507` (the prompt does) and
`chatml` (think blocks only where given).

Two properties hold by construction. *Prefix*: a turn is never changed once it is written, so
pieces appended during a rollout and one rendering of the whole conversation have the same
ids. Qwen's own templates break this on purpose (they drop thoughts of earlier turns, and
empty think blocks of turns that are no longer last). *No forging*: tags that the markup
itself writes become control ids; the same characters elsewhere stay ordinary text.
"""

import bisect
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from aster_jax.data import calls
from aster_jax.data import messages as shapes
from aster_jax.data import template as templates
from aster_jax.data import tokenizer as tokenizers
from aster_jax.errors import InputError

STYLES = ("qwen3_thinking_2507", "qwen3", "chatml")
# Tags that a vocabulary trained for this markup should hold as control tokens.
CONTROL = (
    "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>",
    "<tool_response>", "</tool_response>",
)  # fmt: skip
# The parts of a conversation that are not markup, under the name everyone knows them by.
TOOL = calls.TOOL
call_message = calls.message
malformed_text = calls.malformed_text
cut = calls.cut

_START, _END, _THINK, _END_THINK, _CALL, _END_CALL, _RESULT, _END_RESULT = CONTROL
_END_OF_TEXT = "<|endoftext|>"
_TAGS = re.compile("(" + "|".join(map(re.escape, CONTROL)) + ")")
_BROKEN = re.compile("<(?=" + "|".join(re.escape(tag[1:]) for tag in CONTROL) + ")")


@dataclasses.dataclass(frozen=True)
class Turn:
    """One sampled turn, read: an answer, a tool call, or a call that cannot be run.

    `text` is what stands outside think blocks, `thought` what stands inside: the final text
    of an answer, else what precedes the call. `code` is set for calls, `reason` for malformed
    turns (and for an answer that is empty because its think block never closed).
    """

    kind: Literal["answer", "call", "malformed"]
    text: str
    code: str = ""
    reason: str = ""
    thought: str = ""


class _Piece(NamedTuple):
    text: str
    markup: bool  # tags in it are control tokens
    sampled: bool  # a policy would have written it


def render(
    messages: Sequence[dict], tools, tokenizer, style: str, add_generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """A conversation as ids, with mask 1 on exactly what a policy would have sampled.

    That is an assistant turn's body and its `<|im_end|>`: neither the header, nor a think
    opener that the prompt gives, nor the newline after `<|im_end|>`. Messages are dicts
    with `role` (system, user, assistant, tool) and `content`; an assistant's may have
    `reasoning_content` and `tool_calls` (`data/messages.py` has all the shapes). `tools` is
    a list of schemas or None. Raises ValueError naming the message that cannot be written.
    """
    pieces = _pieces(messages, tools, style, add_generation_prompt)
    return _encode(pieces, tokenizer)


def render_text(messages: Sequence[dict], tools, style: str) -> str:
    """The same conversation as text, to read or to learn a vocabulary from."""
    return "".join(p.text for p in _pieces(messages, tools, style, False))


def raw_prompt(messages: Sequence[dict], tools, style: str) -> str:
    """A prompt for a server that reads every tag in it as one: those of ordinary text are broken."""
    pieces = _pieces(messages, tools, style, True)
    return "".join(p.text if p.markup else _BROKEN.sub("< ", p.text) for p in pieces)


def raw_result(text: str, style: str) -> str:
    """What follows a sampled call in such a prompt, the end of its turn included."""
    broken = [{"role": "tool", "content": text}]
    return f"{_END}\n{raw_prompt(broken, None, style)}"


def text_runs(messages: Sequence[dict], tools, style: str) -> list[str]:
    """The ordinary text, cut where encoding cuts it: what a vocabulary is to be learned from."""
    pieces = _pieces(messages, tools, style, False)
    return [text for text, control, _ in _runs(pieces, CONTROL) if not control]


def prompt_ids(question: str, tools, tokenizer, style: str, system: str | None = None):
    """Ids from the start of a conversation to where the model begins to write."""
    first = [] if system is None else [{"role": "system", "content": system}]
    messages = [*first, {"role": "user", "content": question}]
    return render(messages, tools, tokenizer, style, add_generation_prompt=True)[0]


def tool_ids(text: str, tokenizer, style: str) -> list[int]:
    """Ids to append after a sampled call: separator, result turn, next generation prompt."""
    given = [_given("\n"), *_tool_turn([text]), _given("\n"), *_opening(style)]
    return _encode(given, tokenizer)[0]


def user_ids(text: str, tokenizer, style: str) -> list[int]:
    """Ids to append after a turn that has ended: separator, the user's, next generation prompt."""
    return _encode([_given("\n"), *_turn("user", text), *_opening(style)], tokenizer)[0]


def assistant_ids(message: dict, tokenizer, style: str) -> list[int]:
    """The ids that a policy would have sampled to produce this assistant message."""
    pieces = _assistant(shapes.read_one(message, "the message"), style)
    return _encode([p for p in pieces if p.sampled], tokenizer)[0]


def opener_ids(text: str, tokenizer, style: str) -> list[int]:
    """Ids that begin an answer in the model's name, to append to a generation prompt; after an
    empty think block in styles that think first, so that the text is no thought."""
    _check(style)
    closed = {"qwen3_thinking_2507": f"\n{_END_THINK}\n\n",
              "qwen3": f"{_THINK}\n\n{_END_THINK}\n\n", "chatml": ""}[style]  # fmt: skip
    return _encode([_Piece(closed, True, True), _Piece(text, False, True)], tokenizer)[0]


def stop_ids(tokenizer, style: str) -> tuple[int, ...]:
    """Ids that end a sampled turn: its own end, then that of a text where one is known.

    Renderings never hold the second, but a model that began from a base checkpoint may
    still write it, and what it would write after that belongs to another document.
    """
    _check(style)
    end = _control_id(tokenizer, _END)
    return (end, tokenizer.control[_END_OF_TEXT]) if _END_OF_TEXT in tokenizer.control else (end,)


def detect_style(template: str | None) -> str:
    """The style that a checkpoint's own chat template (Jinja source) stands for."""
    return "chatml" if template is None else templates.detect(template, STYLES)


def template(style: str) -> str:
    """A chat template (Jinja source) that writes what `render` does, thoughts of all turns kept,
    for serving a trained model elsewhere. `render` is stricter in two ways: through a
    template, control names inside messages become control tokens, and with the style
    `qwen3_thinking_2507` the newline that opens a thought is one token with the newline
    that follows if the thought is empty.
    """
    _check(style)
    return templates.source(style, _opening(style)[0].text)


# Messages -> pieces.


def _pieces(messages, tools, style, add_generation_prompt) -> list[_Piece]:
    _check(style)
    pieces, rest = [], shapes.read(messages)
    system = rest.pop(0).content if rest and rest[0].role == "system" else None
    if tools:
        pieces += [_given(f"{_START}system\n")]
        pieces += [_plain(system), _given("\n\n")] if system is not None else []
        schemas = "".join("\n" + json.dumps(t, ensure_ascii=False) for t in tools)
        pieces += [_given(templates.BEFORE_TOOLS), _plain(schemas), _given(f"{templates.AFTER_TOOLS}{_END}\n")]
    elif system is not None:
        pieces += _turn("system", system)
    results = []
    for i, message in enumerate(rest):
        if message.role == "tool":
            results.append(message.content)
            if i + 1 == len(rest) or rest[i + 1].role != "tool":
                pieces += [*_tool_turn(results), _given("\n")]
                results = []
        elif message.role == "assistant":
            pieces += [*_assistant(message, style), _given("\n")]
        else:
            pieces += _turn(message.role, message.content)
    return pieces + (_opening(style) if add_generation_prompt else [])


def _given(text):
    return _Piece(text, markup=True, sampled=False)


def _plain(text):
    return _Piece(text, markup=False, sampled=False)


def _turn(role, content):
    return [_given(f"{_START}{role}\n"), _plain(content), _given(f"{_END}\n")]


def _tool_turn(texts):
    pieces = [_given(f"{_START}user")]
    for text in texts:
        pieces += [_given(f"\n{_RESULT}\n"), _plain(text), _given(f"\n{_END_RESULT}")]
    return [*pieces, _given(_END)]


def _opening(style):
    opener = f"{_THINK}\n" if style == "qwen3_thinking_2507" else ""
    return [_given(f"{_START}assistant\n{opener}")]


def _assistant(message: shapes.Message, style) -> list[_Piece]:
    """Header, then the sampled body up to `<|im_end|>` (the separator is not included)."""
    thought, content = _split_thought(message)
    body = []
    if style != "chatml" or thought:
        body += [] if style == "qwen3_thinking_2507" else [(f"{_THINK}\n", True)]
        body += [(thought.strip("\n"), False), (f"\n{_END_THINK}\n\n", True)]
        shown = content.lstrip("\n")
    else:
        shown = content
    body.append((shown, False))
    for i, call in enumerate(message.calls):
        body.append(("\n" if i or content else "", True))
        body.append((f"{_CALL}\n", True))
        body.append((f'{{"name": "{call.name}", "arguments": {call.arguments}}}', False))
        body.append((f"\n{_END_CALL}", True))
    body.append((_END, True))
    return [*_opening(style), *(_Piece(text, tags, sampled=True) for text, tags in body)]


def _split_thought(message) -> tuple[str, str]:
    """Reasoning and content, whether the reasoning is a field or a block in the content."""
    content = message.content
    if message.thought is not None:
        return message.thought, content
    if _END_THINK not in content:
        return "", content
    thought = content.split(_END_THINK)[0].rstrip("\n").split(_THINK)[-1].lstrip("\n")
    return thought, content.split(_END_THINK)[-1].lstrip("\n")


# Pieces -> ids.


def _runs(pieces: Iterable[_Piece], control) -> list[tuple[str, bool, bool]]:
    """(text, is a control token, sampled): the units that are encoded one by one.

    Ordinary text is joined up to the next control token, as a tokenizer that reads the
    whole conversation would do, but never across the line between given and sampled.
    """
    runs = []
    for piece in pieces:
        for part in _TAGS.split(piece.text) if piece.markup else [piece.text]:
            is_control = piece.markup and part in control
            if not part:
                continue
            if not is_control and runs and runs[-1][1:] == (False, piece.sampled):
                runs[-1] = (runs[-1][0] + part, False, piece.sampled)
            else:
                runs.append((part, is_control, piece.sampled))
    return runs


def _encode(pieces, tokenizer) -> tuple[list[int], list[int]]:
    _control_id(tokenizer, _START), _control_id(tokenizer, _END)
    ids, mask = [], []
    for text, is_control, sampled in _runs(pieces, tokenizer.control):
        new = [tokenizer.control[text]] if is_control else tokenizer.encode(text)
        ids += new
        mask += [int(sampled)] * len(new)
    return ids, mask


def _control_id(tokenizer: tokenizers.Tokenizer, name: str) -> int:
    if name not in tokenizer.control:
        raise InputError(f"the tokenizer has no control token {name}, which chat markup needs")
    return tokenizer.control[name]


def _check(style):
    if style not in STYLES:
        raise InputError(f"style={style!r} is unknown; choose one of {', '.join(STYLES)}")


# Sampled ids -> a turn.


def parse_turn(ids: Iterable[int], tokenizer, style: str) -> Turn:
    """Read one sampled turn, with or without its stop id.

    Tags count as such when they are control ids (or, if the vocabulary has no such control
    token, when spelled out). A tag inside a think block is not a call. A think tag that
    follows text and that nothing closes opens no block: the turn speaks of the tag.
    """
    ids = list(ids)
    if ids and ids[-1] in stop_ids(tokenizer, style):
        ids.pop()
    return _parse(tagged(ids, tokenizer), style)


def parse_text(text: str, style: str) -> Turn:
    """The same of a turn that is known as text only: every tag in it counts as one."""
    _check(style)
    text = text.removesuffix(_END_OF_TEXT).removesuffix(_END)
    return _parse([(part, part in CONTROL) for part in _TAGS.split(text) if part], style)


def _parse(parts: list[tuple[str, bool]], style) -> Turn:
    shown, thought, call, thinking = "", "", None, style == "qwen3_thinking_2507"
    closed = False
    last_close = max((i for i, part in enumerate(parts) if part == (_END_THINK, True)), default=-1)
    for i, (text, is_tag) in enumerate(parts):
        if call is not None:
            call.append((text, is_tag))
        elif is_tag and text == _THINK and (i < last_close or not shown.strip()):
            thinking = True
        elif is_tag and text == _END_THINK:
            shown, thinking = "", False
        elif thinking:
            thought += text
        elif is_tag and text == _CALL:
            call = []
        else:
            closed = closed or (is_tag and text == _END_CALL)
            shown += text
    shown = shown.strip()
    if call is not None:
        turn = _parse_call(shown, call)
    elif closed:
        turn = Turn("malformed", shown, reason=f"{_END_CALL} without {_CALL} before it")
    else:
        turn = Turn("answer", shown, reason="the think block was never closed" if thinking else "")
    return dataclasses.replace(turn, thought=thought.strip("\n"))


def call_opening(ids: Sequence[int], tokenizer) -> int | None:
    """Where the tag that opens a sampled turn's call begins, an index into `ids`: the first one
    after the last think block, whether the vocabulary has a token for it or not; else None."""
    if _CALL in tokenizer.control:
        call, close = (tokenizer.control.get(name) for name in (_CALL, _END_THINK))
        after = max((i for i, x in enumerate(ids) if x == close), default=-1)
        return next((i for i, x in enumerate(ids) if x == call and i > after), None)
    text = tokenizer.decode(ids)
    at = text.find(_CALL, text.rfind(_END_THINK) + 1)
    if at < 0:
        return None
    # The fewest ids whose text reaches into the tag.
    return bisect.bisect_right(range(len(ids)), at, key=lambda n: len(tokenizer.decode(ids[: n + 1])))


def tagged(ids: Iterable[int], tokenizer) -> list[tuple[str, bool]]:
    """Decoded ids in parts, and whether each is one of the markup's tags."""
    names = {tokenizer.control[n]: n for n in CONTROL if n in tokenizer.control}
    spelled = [n for n in CONTROL if n not in tokenizer.control]
    parts, run = [], []

    def flush():
        text = tokenizer.decode(run)
        for part in _TAGS.split(text) if spelled else [text]:
            if part:
                parts.append((part, part in spelled))
        run.clear()

    for i in ids:
        if i in names:
            flush()
            parts.append((names[i], True))
        else:
            run.append(i)
    flush()
    return parts


def _parse_call(before: str, parts: list[tuple[str, bool]]) -> Turn:
    """The parts after the opening tag: exactly one call, then nothing but white space.

    A tag in a string of its JSON is text of that string, so the closing tag that counts is
    the first one with whole JSON before it, else the last.
    """
    malformed = functools.partial(Turn, "malformed", before, "")
    ends = [i for i, part in enumerate(parts) if part == (_END_CALL, True)]
    for end in dict.fromkeys([*ends[:1], *ends[-1:]]):
        code, reason = calls.read("".join(text for text, _ in parts[:end]))
        after = "".join(text for text, _ in parts[end + 1 :]).strip()
        if reason != calls.NO_JSON and not after:
            return malformed(reason) if reason else Turn("call", before, code=code)
        if reason != calls.NO_JSON:
            break
    if (_CALL, True) in parts:
        return malformed("only one tool call is allowed per turn")
    if not ends:
        return malformed(f"{_CALL} is not closed with {_END_CALL}")
    return malformed("there is text after the tool call" if after else reason)
