"""Limits of processor time that both ends of a comparison know about."""

import signal

OVER = 86  # exit code of a process whose job used up its processor time
CALCULUS_S = 1.0  # for an answer in calculus notation where the gold answer has none


def hurry(seconds: float) -> None:
    """Shortens what the present job has left; does nothing where no timer runs."""
    if signal.getitimer(signal.ITIMER_PROF)[0] > seconds:
        signal.setitimer(signal.ITIMER_PROF, seconds)
