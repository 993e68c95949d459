"""What a call came to, as a value, and the text of it that the model sees.

Two families of status, never mixed. *Model outcomes* are consequences of the cell: they
go to the model and are trained on. *Infrastructure outcomes* are ours: the trainer masks
them from the loss, and no byte a session can write turns into one of them.
"""

import dataclasses
import os
import re
import sys

MODEL_STATUSES = (
    "ok", "error", "syntax_error", "timeout", "memory_limit", "output_limit", "crashed",
    "exited", "denied", "protocol_violation", "call_limit",
)
INFRA_STATUSES = ("infra_unavailable", "infra_overload", "infra_lost", "cancelled", "usage_error")
# The statuses a session may claim about its own cell; everything else is decided outside.
CLAIMABLE = {"ok", "error", "syntax_error", "timeout", "memory_limit", "exited", "denied"}

NOTES = {
    "timeout": "[stopped: the cell ran longer than {limit:g} s]",
    "memory_limit": "[out of memory: the limit is {memory} MiB]",
    "output_limit": "[killed: too much output]",
    "crashed": "[the interpreter crashed: {detail}]",
    "exited": "[the cell called exit; the session goes on]",
    "denied": "[not permitted in this sandbox]",
    "protocol_violation": "[killed: the cell disturbed the interpreter's own channel]",
    "call_limit": "[no tool calls left: the limit is {calls}]",
    **dict.fromkeys(("infra_unavailable", "infra_overload", "infra_lost"), "[tool unavailable]"),
    "cancelled": "[cancelled]", "usage_error": "[tool misused: {detail}]",
}
LOST_NOTE = "[the interpreter was restarted: all variables are gone]"


@dataclasses.dataclass(frozen=True)
class ToolResult:
    """One finished call. Durations in seconds, sizes in bytes.

    `text` is what the model sees; `stdout` and `stderr` are its parts. `state` says what
    became of the variables, "kept" or "lost". `wall_s`
    counts from the start of execution, `queue_s` is the wait before it, `cpu_s` comes from
    the kernel. `dropped_bytes` were printed but are in neither stream. `peak_rss_bytes` is
    the session's peak so far, 0 (not looked at) after cells under 20 ms of processor time.
    `seq` is the number of the call in its session, from 1.
    """

    status: str
    text: str
    state: str = "kept"
    wall_s: float = 0.0
    cpu_s: float = 0.0
    queue_s: float = 0.0
    stdout: str = ""
    stderr: str = ""
    dropped_bytes: int = 0
    error_type: str = ""
    error_message: str = ""
    last_value_printed: bool = False
    live_threads: int = 0
    peak_rss_bytes: int = 0
    tier: str = ""
    session_id: int = -1
    call_id: int = -1
    seq: int = 0

    @property
    def is_infra(self) -> bool:
        """Whether the outcome is ours and has to be masked from the loss."""
        return self.status in INFRA_STATUSES


def render_text(status: str, state: str, stdout: str, stderr: str, **values) -> str:
    """The model's view: output, then errors, then at most two fixed notes in brackets."""
    parts = [stdout, stderr]
    if status in NOTES:
        parts.append(NOTES[status].format(**values) + "\n")
    if state != "kept":
        parts.append(LOST_NOTE + "\n")
    return "".join(part if part.endswith("\n") or not part else part + "\n" for part in parts)


# Control characters a terminal or a tokenizer could act on; newline and tab stay.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
# Strings a chat template gives a meaning to: `<|anything|>` and the tags of tool turns.
MARKUP = re.compile(r"<(?=\|[^|<>\s]{1,40}\|>|/?(?:tool_call|tool_response|think|tools)>)")


def neutralise(text: str) -> str:
    """Escapes control characters and puts a space into chat markup: `<|x|>` -> `< |x|>`."""
    text = text.replace("\r\n", "\n")
    text = CONTROL.sub(lambda match: ascii(match.group())[1:-1], text)
    return MARKUP.sub("< ", text)


class Veil:
    """Takes this machine's paths out of what a model sees: they are not its business.

    They stand in tracebacks, in modules' `__file__` and in the dumps of native code, so the
    text is where all of them pass. Directories every system has stay as they are.
    """

    def __init__(self, libraries: list[str], root: str):
        names = {path: "/lib/packages" for path in libraries}
        names |= {path: "/lib/python" for path in libraries if not path.endswith("-packages")}
        names |= {f"{root}/aster_jax/tools": "/lib/tool", root: "/lib/tool"}
        names |= {sys.prefix: "/usr", sys.base_prefix: "/usr"}
        names |= {os.path.realpath(path): name for path, name in names.items()}
        self.names = {
            path: name for path, name in names.items()
            if path not in ("/", "/usr") and not path.startswith(("/usr/lib/", "/usr/local"))
        }
        longest_first = sorted(map(re.escape, self.names), key=len, reverse=True)
        self.paths = re.compile(f"(?<![\\w.-])(?:{'|'.join(longest_first) or '(?!)'})(?![\\w-])")

    def hide(self, text: str) -> str:
        """`text` with neutral paths."""
        return self.paths.sub(lambda match: self.names[match.group()], text)


class Output:
    """The bytes of one stream of one cell: a head, a tail, and a count of the rest."""

    def __init__(self, head_bytes: int, tail_bytes: int):
        self.head_bytes, self.tail_bytes = head_bytes, tail_bytes
        self.head, self.tail, self.total = bytearray(), bytearray(), 0

    def feed(self, data: bytes) -> None:
        """Adds printed bytes; memory stays bounded whatever comes."""
        self.total += len(data)
        room = self.head_bytes - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        if data:
            self.tail += data
            if len(self.tail) > 2 * self.tail_bytes + 65536:
                del self.tail[: len(self.tail) - self.tail_bytes]

    def dropped(self, unsent: int = 0) -> int:
        """How many bytes are missing; `unsent` is what the session says it did not send."""
        return unsent + self.total - len(self.head) - min(len(self.tail), self.tail_bytes)

    def text(self, unsent: int = 0) -> str:
        """Decoded with replacement, cut in the middle, neutralised."""
        tail = bytes(self.tail[max(0, len(self.tail) - self.tail_bytes) :])
        missing = self.dropped(unsent)
        if not missing:
            return neutralise((bytes(self.head) + tail).decode("utf-8", "replace"))
        head = neutralise(bytes(self.head).decode("utf-8", "replace"))
        end = neutralise(tail.decode("utf-8", "replace"))
        return f"{head}\n[... {missing} bytes dropped ...]\n{end}"
