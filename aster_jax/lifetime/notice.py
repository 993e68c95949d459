"""SIGTERM: the machine will be taken away; save what is whole and be gone in time.

The signal may come while the main thread waits inside a computation, where Python runs no
handler. So a thread of its own hears it: it raises a flag that loops look at between steps
and while they wait, and ends the process itself when the notice is nearly over.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable

from aster_jax import together
from aster_jax.errors import Leaving

EXIT_CODE = 143  # 128 + SIGTERM, as a shell shows it: the launcher is to come again
MARGIN_S = 1.0  # of the notice, kept for the process to end in


class Notice:
    """Whether the process has been asked to leave, itself or with the others of its run."""

    def __init__(self):
        self._given = threading.Event()
        self._tell: Callable[[], None] = lambda: None

    def is_given(self) -> bool:
        """Whether SIGTERM has come, as far as this process knows yet."""
        return self._given.is_set()

    def check(self) -> None:
        """Raise `errors.Leaving` if it has. For places where nothing is half done, and where
        all processes come by: they leave at the same one."""
        if together.once("leave", self.is_given):
            raise Leaving

    def share(self, tell: Callable[[], None]) -> None:
        """Have `tell` called when this process hears the signal."""
        self._tell = tell

    def come(self, notice_s: float) -> None:
        """The machine, or that of another process of this run, goes in so many seconds."""
        self._given.set()
        timer = threading.Timer(max(0.0, notice_s - MARGIN_S), _end, args=(notice_s,))
        timer.daemon = True
        timer.start()

    @contextlib.contextmanager
    def heard(self, notice_s: float):
        """Hear SIGTERM inside this block; `notice_s` after it the process is ended.

        Only in the main thread, as signals are; elsewhere nothing is heard.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        read, write = os.pipe()
        os.set_blocking(write, False)
        listener = threading.Thread(
            target=self._listen, args=(read, notice_s), name="aster-notice", daemon=True
        )
        listener.start()
        old_handler = signal.signal(signal.SIGTERM, lambda *_: None)
        old_fd = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            signal.signal(signal.SIGTERM, old_handler)
            os.close(write)
            if not self.is_given():  # else it waits for the notice's end
                listener.join()

    def _listen(self, read: int, notice_s: float) -> None:
        while received := os.read(read, 64):
            if signal.SIGTERM in received:
                break
        os.close(read)
        if not received:
            return
        self._tell()
        self.come(notice_s)


def _end(notice_s: float) -> None:
    print(
        f"aster_jax: the notice of {notice_s:g} s is over; leaving without what was not yet "
        "saved. The same command goes on from the last checkpoint",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    os._exit(EXIT_CODE)
