"""What `aster --help` says. Imports no JAX, so that it is said at once."""

import pathlib

from aster_jax import config as configs
from aster_jax import experiment

ASKS = ("-h", "-help", "--help", "help")
_TEXT = """\
aster: train a language model to think with a Python tool, by the ASTER recipe (arXiv 2602.01204)

  {command} --config quickstart                    the whole recipe on 2 CPU cores, in 5 minutes
  {command} --config quickstart --config.rl.learning_rate=2e-3      with another value of one key
  {command} --config my_experiment.py --workdir /mnt/runs/mine      your own file, somewhere else

The same command again goes on where a run stopped; finished stages are skipped.

  --config NAME[:ARGUMENT]  a file that defines get_config(), or one that comes along:
{experiments}
  --config.KEY=VALUE        another value of a key, in one of the sections
{sections}
                            every key with unit and default: {keys}
  --workdir DIR             where everything is written; default runs/NAME and the other values
  --coordinator HOST:PORT --processes N --process I
                            several processes that no launcher tells of each other
{others}"""


def asked(arguments: list[str]) -> bool:
    """Whether the command line asks for help."""
    return any(a in ASKS[:3] for a in arguments) or arguments[:1] == [ASKS[3]]


def text(command: str, others: str = "") -> str:
    """The help of `command`; `others` are lines about commands beside the recipe."""
    c = configs.default()
    sections = dict.fromkeys(key.split(".")[0] for key in configs.keys(c) if "." in key)
    return _TEXT.format(
        command=command,
        experiments=_folded(experiment.names()),
        sections=_folded(list(sections)),
        keys=pathlib.Path(configs.__file__),
        others=others,
    )


def _folded(words: list[str], indent: int = 28, width: int = 78) -> str:
    lines = [" " * indent]
    for word in words:
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append(" " * indent)
        lines[-1] += ("" if lines[-1].isspace() else " ") + word
    return "\n".join(lines)
