"""Command line: `python -m aster_jax.tools doctor` or `python -m aster_jax.tools repl`."""

import sys

from aster_jax.tools import doctor, repl

COMMANDS = {"doctor": doctor.main, "repl": repl.main}


def main() -> int:
    """Runs the named command."""
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        print("usage: python -m aster_jax.tools (doctor | repl)", file=sys.stderr)
        return 2
    return COMMANDS[sys.argv[1]]()


if __name__ == "__main__":
    sys.exit(main())
