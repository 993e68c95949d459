"""`python -m aster_jax.member ...`: `aster_jax.main`, in a process that ends when its parent does.

Where in the flow: `studies/beside.py` starts it for a member of a study, with a pipe as its
standard input. The kernel closes that when the parent ends, by whatever cause, and so no member
goes on in a directory that nobody looks after.
"""

import os
import threading

from aster_jax import main

ORPHANED = 70


def _end_with_parent() -> None:
    while os.read(0, 1):  # nothing is ever sent. No buffer: its lock would outlive the thread
        pass
    os._exit(ORPHANED)  # as a kill: what is on the disk is whole


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="aster-parent", daemon=True).start()
    main.cli()
