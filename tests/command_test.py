"""The `aster` command: help that explains itself, and the commands beside the recipe."""

import re
import subprocess
import sys

import pytest

from aster_jax import command, experiment, usage


@pytest.fixture
def ask(monkeypatch, capsys):
    """Give the command these arguments; (exit code or sentence, standard output)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["aster", *arguments])
        with pytest.raises(SystemExit) as caught:
            command.main()
        return caught.value.code, capsys.readouterr().out

    return run


@pytest.mark.parametrize("word", ["--help", "-h", "-help", "help"])
def test_help_has_an_example_every_experiment_and_every_command(ask, word):
    code, said = ask(word)
    assert code == 0
    assert "aster --config quickstart --config.rl.learning_rate=2e-3" in said
    for name in [*experiment.names(), *command.here()]:
        assert re.search(rf"\b{name}\b", said)
    assert max(map(len, said.splitlines()[2:])) < 110
    assert "absl" not in said


def test_help_beside_other_arguments_runs_nothing(ask):
    code, said = ask("--config", "quickstart", "--help")
    assert code == 0 and said.startswith("aster:")


def test_no_arguments_show_the_help_and_are_no_success(ask):
    code, said = ask()
    assert code == 1 and "--config quickstart" in said


@pytest.mark.parametrize(
    "word, said", [("quickstart", "--config quickstart for"), ("studies/quickstart_direct", "_direct"),
                   ("exprot", "one of export")],
)  # fmt: skip
def test_an_unknown_word_is_one_sentence(ask, word, said):
    code, _ = ask(word)
    assert code.startswith("aster_jax: unknown command") and said in code and "\n" not in code


def test_a_command_beside_the_recipe_gets_the_rest_of_the_line(ask):
    code, said = ask("export", "--help")
    assert code == 0 and "--checkpoint" in said
    assert "export" in command.here() and "tools" in command.here()


def test_help_does_not_wait_for_jax():
    script = (
        "import sys\nsys.argv = ['aster', '--help']\nfrom aster_jax import command\n"
        "try: command.main()\nexcept SystemExit: pass\nassert 'jax' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_the_help_of_main_is_the_same_but_for_the_command():
    assert "python -m aster_jax.main --config quickstart" in usage.text("python -m aster_jax.main")
    assert usage.asked(["--config=x", "-h"]) and not usage.asked(["--config", "help"])
