"""The command line: default directory, unknown keys, and errors as one sentence."""

import pathlib
import sys

import pytest
from absl import flags

from aster_jax import config, main

SMOKE = str(pathlib.Path(__file__).parents[1] / "experiments" / "smoke.py")


@pytest.fixture
def parse(monkeypatch):
    """Parse arguments as the command does; the flags are as before afterwards."""

    def run(*arguments):
        argv = ["main", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        return main._parse(argv)

    yield run
    flags.FLAGS.unparse_flags()
    for name in [n for n in flags.FLAGS if n.startswith("config.")]:
        delattr(flags.FLAGS, name)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "runs/smoke"),
        (["--config=experiments/smoke.py"], "runs/smoke"),
        (["--config.seed=2"], "runs/smoke-seed=2"),
        (["--config.seed=2", "--config.sft.steps=3"], "runs/smoke-seed=2-sft.steps=3"),
        (["--config.sft.steps=3", "--config.seed=2"], "runs/smoke-seed=2-sft.steps=3"),
        (["-config.problems.source=/a/b c.jsonl"], "runs/smoke-problems.source=_a_b_c.jsonl"),
    ],
)
def test_the_default_directory_names_what_was_overridden(arguments, expected):
    assert main.default_workdir("smoke", arguments) == expected


def test_overrides_reach_the_config(parse):
    rest = parse(f"--config={SMOKE}", "--config.sft.steps=5", "--config.seed=9")
    assert rest == ["main"]
    c = flags.FLAGS.config
    assert (c.name, c.sft.steps, c.seed) == ("smoke", 5, 9)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ([f"--config={SMOKE}", "--config.sft.stepz=5"], "did you mean --config.sft.steps"),
        ([f"--config={SMOKE}", "--config.zzzzqqqq=5"], "see aster_jax/config.py"),
        ([f"--config={SMOKE}", "--workdri=x"], "unknown flag --workdri"),
        ([f"--config={SMOKE}", "--config.sft.steps=many"], "many"),
        (["--config=experiments/absent.py"], "absent.py"),
    ],
)
def test_a_wrong_argument_is_one_line_and_no_success(parse, arguments, text):
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    message = str(caught.value.code)
    assert message.startswith("aster_jax: ") and text in message
    assert "\n" not in message.strip(), message


def test_unknown_flag_text():
    assert main.unknown_flag_text("config.rl.grup") == (
        "unknown flag --config.rl.grup; did you mean --config.rl.group?"
    )
    assert main.unknown_flag_text("config.zzzzqqqq").endswith("see aster_jax/config.py")


def test_every_stage_has_its_function():
    assert tuple(main.STAGES) == config.STAGES
