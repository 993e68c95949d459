"""What can go wrong with a run, told apart by who has to do something about it.

`main` prints the sentence of these and nothing else; any other exception is a mistake of
this package or of the machine, and leaves its traceback on the terminal and in
`error.log` of the workdir.
"""


GAVE_UP = 3  # exit code of a run that ends by `GaveUp`


class InputError(ValueError):
    """What the user gave cannot work: says what, which value, and what to do."""


class GaveUp(RuntimeError):
    """A run ends by a rule of its own config (so many steps in a row that could not be
    used); nothing is lost, and the same command goes on when the cause is gone."""


class Leaving(BaseException):
    """The machine asks for the process (SIGTERM): unwinds to where there is something whole
    to save. Not an `Exception`, so that no handler of failures takes it for one."""
