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
import itertools
import linecache
import mmap
import pprint
import re
import resource
import socket
import sys
import threading
import types

from aster_jax.tools import streams, surroundings

# Functions below look names up in this copy: cells may replace what is in `builtins`.
__builtins__ = dict(vars(builtins))

REFIRE_S = 0.05  # a time-out swallowed by the cell's own handler comes again after this
FUTURE_FLAGS = 0
for _name in __future__.all_feature_names:
    FUTURE_FLAGS |= getattr(__future__, _name).compiler_flag
_Expression, _Expr, ONLY_AST = ast.Expression, ast.Expr, ast.PyCF_ONLY_AST
_lines, _gaierror = linecache.cache, socket.gaierror
_get_ident, _setrlimit, _MEMORY = threading.get_ident, resource.setrlimit, resource.RLIMIT_AS
_group, _neighbours = BaseExceptionGroup, itertools.groupby
MAX_FRAMES, MAX_CHAIN, MAX_MESSAGE, MAX_MEMBERS, MAX_DEPTH = 16, 4, 2000, 4, 3
AROUND = vars(surroundings)
BALLAST_BYTES, PRIVATE, _map = 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.mmap
CONVERT = {
    "str": str, "repr": repr, "aster": str,
    "pretty": functools.partial(pprint.pformat, width=79, sort_dicts=False),
}
HINTS = tuple((re.compile(pattern).match, text) for pattern, text in (  # for a line of a cell
    (r"\s*(?:```|~~~)", "send the code alone, without the fences around it"),
    (r"(?:[\w\s.,]*=)?\s*!", "shell commands do not work here: plain Python only"),
    (r"(?:[\w\s.,]*=)?\s*%", "notebook magics do not work here: plain Python only"),
    (r"\s*\?|[^#'\"]*\w\s*\?+\s*$", "notebook help does not work here: use help(name)"),
))
CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"
PROCESS_MODULES = ("multiprocessing.", "concurrent.futures.process")
UNSET = ("error return without exception set",)  # no memory for a frame, then none to say so
ASYNC_HINT = "no top-level await here: use asyncio.run(...)"
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
        self.sources, self.armed, self.late, self.ballast = {}, False, False, None

    def limit_memory(self, room: tuple[int, int], headroom_bytes: int) -> None:
        """A cell may use (soft, hard) `room` less the headroom; that is left to report it."""
        self.roomy, self.tight = room, (room[1] - headroom_bytes, room[1])

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
            return self.explain_syntax(error, filename, err)
        shown, failure = False, None
        namespace = self.module.__dict__
        # Untouched address space: given back first, it lets the limit be raised at all.
        self.ballast = self.ballast or _map(-1, BALLAST_BYTES, PRIVATE)
        _setrlimit(_MEMORY, self.tight)
        self.start_timer(limit_s)
        try:
            if body is not None:
                exec(body, namespace)
            if last is not None:
                shown = self.display(eval(last, namespace), out)
        except BaseException as error:  # whatever a cell raises is its outcome, not ours
            failure = error
            self.ballast = self.ballast.close()
        self.stop_timer()
        _setrlimit(_MEMORY, self.roomy)
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
        if value is not None:
            builtins._ = value  # as in Python's own shell
        elif self.last_value != "aster":
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
        status = "error"
        if issubclass(kind, MemoryError) or kind is SystemError and error.args == UNSET:
            status = "memory_limit"
        elif issubclass(kind, SystemExit):
            status = "exited"
        elif is_denial(error):
            status = "denied"
        self.start_timer(min(limit_s, 1.0))  # a message may take for ever to compute
        try:
            message = self.message(error)
            if status == "exited":
                text = "" if isinstance(error.code, (int, type(None))) else message + "\n"
            else:
                text = self.format(error) + find_hint(error, message)
        except BaseException as trouble:  # including a time-out in the message
            text, message = f"{kind.__name__}: <no message: {type(trouble).__name__}>\n", ""
        self.stop_timer()
        err.write(text)
        return {"status": status, "type": kind.__name__[:200], "message": message}

    def explain_syntax(self, error: BaseException, filename: str, err) -> dict:
        """Status and text for a cell that does not compile."""
        kind, message = type(error).__name__, self.message(error)
        line = getattr(error, "lineno", None)
        where = f'  File "<cell {self.count}>", line {line}\n' if line else ""
        source = getattr(error, "text", None)
        if where and isinstance(source, str):
            where += "    " + source.strip()[:200] + "\n"
        rows = self.sources.get(filename, [])
        row = rows[line - 1] if isinstance(line, int) and 0 < line <= len(rows) else ""
        found = [text for fits, text in HINTS if fits(row)]
        if "outside" in message and ("await" in message or "async" in message):
            found = [ASYNC_HINT]
        err.write(f"{where}{kind}: {message}\n" + "".join(f"hint: {one}\n" for one in found[:1]))
        return {"status": "syntax_error", "type": kind, "message": message}

    def message(self, error: BaseException) -> str:
        """str(error), cut; what raises inside is named instead."""
        if isinstance(error, SyntaxError):
            return str(error.msg)[:MAX_MESSAGE]
        try:
            return cut(self.shown["describe"](error))
        except Exception as trouble:  # a cell's own __str__
            return f"<no message: {type(trouble).__name__}>"

    def format(self, error: BaseException, depth: int = 0) -> str:
        """A traceback without harness frames, bounded in frames, chain, members and message."""
        parts, seen, link = [], set(), ""
        while error is not None and id(error) not in seen and len(seen) < MAX_CHAIN:
            seen.add(id(error))
            parts[:0] = [self.format_one(error, depth), link]
            past, link = error.__cause__, CAUSED
            if past is None:
                past, link = None if error.__suppress_context__ else error.__context__, MEANWHILE
            while type(error) is type(past) is MemoryError:  # handlers that found none either
                past = past.__context__
            error = past
        return ("[earlier exceptions left out]\n\n" if error is not None else "") + "".join(parts)

    def format_one(self, error: BaseException, depth: int) -> str:
        """One link of the chain: frames of the cell and its libraries, the message, its parts."""
        rows, step = [], error.__traceback__
        while step is not None and len(rows) < 5000:
            frame, line = step.tb_frame, step.tb_lineno
            step = step.tb_next
            if any(frame.f_globals is mine for mine in (*self.harness, self.shown, AROUND)):
                continue
            name = frame.f_code.co_filename
            row = f'  File "{name}", line {line}, in {frame.f_code.co_name}\n'
            source = self.sources.get(name, ())
            if line is not None and 0 < line <= len(source):
                row += f"    {source[line - 1].strip()[:200]}\n"
            rows.append((name[:1] == "<", row))
        texts = []
        for own, group in _neighbours(rows, lambda row: row[0]):
            found = [text for _, text in group]
            if not own and len(found) > 2:  # a library's among itself would crowd out the cell's
                found = [f"  [... {len(found) - 1} library frames ...]\n", found[-1]]
            texts += found
        if len(texts) > MAX_FRAMES:
            half = MAX_FRAMES // 2
            gap = f"  [... {len(texts) - MAX_FRAMES} frames ...]\n"
            texts = texts[:half] + [gap] + texts[-half:]
        message = self.message(error)
        head = "Traceback (most recent call last):\n" if texts else ""
        last = type(error).__name__ + (f": {message}\n" if message else "\n")
        notes = getattr(error, "__notes__", ())
        if isinstance(notes, (list, tuple)):  # else it does not come from `add_note`
            last += "".join(f"{cut(n)}\n" for n in notes[:MAX_MEMBERS] if isinstance(n, str))
        return head + "".join(texts) + last + self.format_members(error, depth)

    def format_members(self, error: BaseException, depth: int) -> str:
        """The exceptions inside a group, each indented under its number."""
        if not isinstance(error, _group):
            return ""
        members, rows = error.exceptions, []
        for number, member in enumerate(members[:MAX_MEMBERS] if depth < MAX_DEPTH else (), 1):
            rows.append(f"---- {number} of {len(members)} ----\n")
            rows += self.format(member, depth + 1).splitlines(True)
        if len(members) > MAX_MEMBERS or depth >= MAX_DEPTH:
            rows.append("[further members left out]\n")
        return "".join("  | " + row for row in rows)


def cut(text: str) -> str:
    """A message at most so long."""
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + " [...]"


def find_hint(error: BaseException, message: str) -> str:
    """One line beside an error whose cause is this sandbox, though it does not say so."""
    if is_process_error(error):
        return "hint: no process can be started here\n"
    if "emporary directory" in message or "writable cache directory" in message:
        return "hint: no file can be written here\n"
    return ""


def is_process_error(error: BaseException) -> bool:
    """Whether it is the refusal of what multiprocessing needs: semaphores, then processes."""
    step = error.__traceback__ if isinstance(error, OSError) else None
    while step is not None:
        name = step.tb_frame.f_globals.get("__name__")
        if isinstance(name, str) and name.startswith(PROCESS_MODULES):
            return True
        step = step.tb_next
    return False


def is_denial(error: BaseException | None) -> bool:
    """Whether the sandbox's refusal is somewhere in the chain of exceptions."""
    if is_process_error(error):
        return True
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
