"""Running one cell: compile, execute, show the last value, describe what went wrong.

This code shares its process with model-written code, so it defends its *correctness*, not
a secret: it keeps private references to everything it calls, and a soft time-out is
raised only while the cell's own frames are running, never inside the harness. A cell that
prints without end is in the harness nearly always: its time-out comes out of its next write.
"""

import __future__
import _signal  # the wrappers in `signal` use builtins that a cell may replace
import ast
import builtins
import errno
import functools
import linecache
import pprint
import socket
import sys
import threading
import types

from aster_jax.tools import streams

# Functions below look names up in this copy: cells may replace what is in `builtins`.
__builtins__ = dict(vars(builtins))

REFIRE_S = 0.05  # a time-out swallowed by the cell's own handler comes again after this
FUTURE_FLAGS = 0
for _name in __future__.all_feature_names:
    FUTURE_FLAGS |= getattr(__future__, _name).compiler_flag
_Expression, _Expr, ONLY_AST = ast.Expression, ast.Expr, ast.PyCF_ONLY_AST
_lines, _frames, _gaierror = linecache.cache, sys._current_frames, socket.gaierror
_get_ident = threading.get_ident
MAX_FRAMES, MAX_CHAIN, MAX_MESSAGE = 16, 4, 2000
CONVERT = {
    "str": str, "repr": repr, "aster": str,
    "pretty": functools.partial(pprint.pformat, width=79, sort_dicts=False),
}
HINTS = (
    ("!", "shell commands do not work here: plain Python only"),
    ("%", "notebook magics do not work here: plain Python only"),
)
# Runs with globals of its own, so that a time-out may interrupt a value's __str__.
SHOW = """
def show(value, convert, write):
    write(convert(value) + "\\n")
def describe(error):
    return str(error)
"""


class TimeLimit(BaseException):
    """Raised in the main thread of a cell when its time is over."""


class Interpreter:
    """The namespace of one session and the cells run in it so far."""

    def __init__(self, last_value: str):
        self.last_value, self.count, self.flags = last_value, 0, 0
        self.module = types.ModuleType("__main__")
        self.module.__dict__["__builtins__"] = builtins
        self.modules = sys.modules
        self.modules["__main__"] = self.module
        self.shown = {"__builtins__": dict(vars(builtins))}
        exec(SHOW, self.shown)
        self.harness = (globals(), vars(streams))  # frames a time-out must not hit
        self.sources = {}
        self.armed = self.late = False

    def run(self, code: str, limit_s: float, out, err) -> dict:
        """Runs `code` for at most `limit_s` seconds; text goes to `out` and `err`.

        Returns the claim that the session sends: status, error type and message, whether
        a last value was shown. Never raises.
        """
        self.count += 1
        self.modules["__main__"] = self.module
        filename = f"<cell {self.count}>"
        try:
            body, last = self.compile(code, filename)
        except BaseException as error:  # the compiler raises many kinds for bad text
            return self.explain_syntax(error, code, err)
        shown, failure = False, None
        namespace = self.module.__dict__
        self.start_timer(limit_s)
        try:
            if body is not None:
                exec(body, namespace)
            if last is not None:
                shown = self.display(eval(last, namespace), out)
        except BaseException as error:  # whatever a cell raises is its outcome, not ours
            failure = error
        self.stop_timer()
        if failure is None:
            return {"status": "ok", "shown": shown}
        return self.explain(failure, limit_s, err)

    def compile(self, code: str, filename: str):
        """(statements or None, last expression or None); `from __future__` stays in force."""
        code = code.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
        lines = code.splitlines(True)
        self.sources[filename] = lines
        _lines[filename] = (len(code), None, lines, filename)
        tree = compile(code, filename, "exec", self.flags | ONLY_AST, True)
        last = None
        if tree.body and isinstance(tree.body[-1], _Expr):
            node = tree.body[-1]
            rest = lines[node.end_lineno - 1].encode()[node.end_col_offset :]
            if not rest.lstrip(b" \t)").startswith(b";") and self.last_value != "none":
                tree.body.pop()
                last = compile(_Expression(node.value), filename, "eval", self.flags, True)
        if last is not None and not tree.body:
            return None, last
        body = compile(tree, filename, "exec", self.flags, True)
        self.flags |= body.co_flags & FUTURE_FLAGS
        return body, last

    def display(self, value, out) -> bool:
        """Shows a last value by the session's convention; True if anything was shown."""
        if value is None and self.last_value != "aster":
            return False
        self.shown["show"](value, CONVERT[self.last_value], out.write)
        return True

    def start_timer(self, limit_s: float) -> None:
        """Signals as at the start of the session, then the clock of this cell."""
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        _signal.signal(_signal.SIGALRM, self.on_alarm)
        self.armed, self.late, self.thread = True, False, _get_ident()
        _signal.setitimer(_signal.ITIMER_REAL, limit_s, REFIRE_S)

    def stop_timer(self) -> None:
        """No interrupt of this cell can arrive after this."""
        self.armed = self.late = False
        _signal.setitimer(_signal.ITIMER_REAL, 0)

    def on_alarm(self, number, frame) -> None:
        """Interrupts the cell, but never the harness: `before_write` makes up for that."""
        if not self.armed or frame is None:
            return
        if any(frame.f_globals is mine for mine in self.harness):
            self.late = True
            return
        raise TimeLimit

    def before_write(self) -> None:
        """Raises the time-out that came amid an earlier write; nothing of this one is taken."""
        if self.late and _get_ident() == self.thread:  # alarms are for the main thread alone
            self.late = False
            raise TimeLimit

    def explain(self, error: BaseException, limit_s: float, err) -> dict:
        """Status and traceback of an exception that left the cell."""
        kind = type(error)
        if kind is TimeLimit:
            return {"status": "timeout", "type": "TimeLimit"}
        if issubclass(kind, SystemExit):
            return {"status": "exited", "type": "SystemExit"}
        status = "error"
        if issubclass(kind, MemoryError):
            status = "memory_limit"
        elif is_denial(error):
            status = "denied"
        self.start_timer(min(limit_s, 1.0))  # a message may take for ever to compute
        try:
            text, message = self.format(error), self.message(error)
        except BaseException as trouble:  # including a time-out in the message
            text, message = f"{kind.__name__}: <no message: {type(trouble).__name__}>\n", ""
        self.stop_timer()
        err.write(text)
        return {"status": status, "type": kind.__name__[:200], "message": message}

    def explain_syntax(self, error: BaseException, code: str, err) -> dict:
        """Status and text for a cell that does not compile."""
        kind, message = type(error).__name__, self.message(error)
        line = getattr(error, "lineno", None)
        where = f'  File "<cell {self.count}>", line {line}\n' if line else ""
        source = getattr(error, "text", None)
        if where and isinstance(source, str):
            where += "    " + source.strip()[:200] + "\n"
        hint = "".join(
            f"hint: {text}\n" for sign, text in HINTS if any(
                row.lstrip().startswith(sign) for row in code.splitlines()[:200])
        )
        if "'await' outside function" in message:
            hint = "hint: no top-level await here: use asyncio.run(...)\n"
        err.write(f"{where}{kind}: {message}\n{hint}")
        return {"status": "syntax_error", "type": kind, "message": message}

    def message(self, error: BaseException) -> str:
        """str(error), cut; what raises inside is named instead."""
        if isinstance(error, SyntaxError):
            return str(error.msg)[:MAX_MESSAGE]
        try:
            text = self.shown["describe"](error)
            return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + " [...]"
        except Exception as trouble:  # a cell's own __str__
            return f"<no message: {type(trouble).__name__}>"

    def format(self, error: BaseException) -> str:
        """A traceback without harness frames, bounded in frames, chain and message."""
        chain, seen = [], set()
        while error is not None and id(error) not in seen and len(chain) < MAX_CHAIN:
            seen.add(id(error))
            cause = error.__cause__
            hidden = error.__suppress_context__
            chain.append((error, cause is not None))
            error = cause if cause is not None or hidden else error.__context__
        parts = ["[earlier exceptions left out]\n\n"] if error is not None else []
        for index in range(len(chain) - 1, -1, -1):
            parts.append(self.format_one(chain[index][0]))
            if index:
                parts.append(
                    "\nThe above exception was the direct cause of the following exception:\n\n"
                    if chain[index - 1][1]
                    else "\nDuring handling of the above exception, another exception occurred:\n\n"
                )
        return "".join(parts)

    def format_one(self, error: BaseException) -> str:
        """One link of the chain: frames of the cell and its libraries, then the message."""
        rows, step = [], error.__traceback__
        while step is not None and len(rows) < 5000:
            frame, line = step.tb_frame, step.tb_lineno
            step = step.tb_next
            if any(frame.f_globals is mine for mine in (*self.harness, self.shown)):
                continue
            name = frame.f_code.co_filename
            row = f'  File "{name}", line {line}, in {frame.f_code.co_name}\n'
            source = self.sources.get(name, ())
            if line is not None and 0 < line <= len(source):
                row += f"    {source[line - 1].strip()[:200]}\n"
            rows.append(row)
        if len(rows) > MAX_FRAMES:
            half = MAX_FRAMES // 2
            gap = f"  [... {len(rows) - MAX_FRAMES} frames ...]\n"
            rows = rows[:half] + [gap] + rows[-half:]
        message = self.message(error)
        head = "Traceback (most recent call last):\n" if rows else ""
        return head + "".join(rows) + type(error).__name__ + (f": {message}\n" if message else "\n")


def is_denial(error: BaseException | None) -> bool:
    """Whether the sandbox's refusal is somewhere in the chain of exceptions."""
    for _ in range(8):
        for found in (error, getattr(error, "reason", None)):  # `reason`: how urllib wraps it
            if isinstance(found, (PermissionError, _gaierror)):
                return True
            if isinstance(found, OSError) and found.errno == errno.EROFS:
                return True
        if error is None:
            return False
        error = error.__cause__ or error.__context__
    return False


def count_threads() -> int:
    """Threads besides the main one that are still alive."""
    return len(_frames()) - 1
