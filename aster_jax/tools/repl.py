"""The interpreter the model gets, for a person: `python -m aster_jax.tools repl`.

A cell ends at an empty line, or at once when it is a complete single statement. What is
printed is exactly the text a model would see, then the status if it is not "ok".
"""

import codeop

from aster_jax.tools import config, executor


def read_cell() -> str | None:
    """One cell from the terminal, or None at the end of the input."""
    rows = []
    while True:
        try:
            row = input("... " if rows else ">>> ")
        except EOFError:
            return "\n".join(rows) if rows else None
        if rows and not row.strip():
            return "\n".join(rows) + "\n"
        rows.append(row)
        if len(rows) == 1 and is_whole(row):
            return row


def is_whole(row: str) -> bool:
    """Whether a first line needs no further ones; wrong ones are whole too."""
    try:
        return codeop.compile_command(row) is not None
    except (SyntaxError, ValueError, OverflowError):
        return True


def main() -> int:
    """Runs cells until the input ends."""
    with executor.Executor(config.ToolConfig(max_calls=1 << 20)) as tools:
        session = tools.open(seed=0)
        print(f"tier {tools.tier}; an empty line ends a cell, Ctrl-D leaves")
        while (code := read_cell()) is not None:
            outcome = tools.run(session, code)
            print(outcome.text, end="")
            if outcome.status != "ok":
                print(f"({outcome.status}, state {outcome.state}, {outcome.wall_s:.3f} s)")
    return 0
