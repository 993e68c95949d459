"""The command line: default directory, unknown keys, and errors as one sentence."""

import pathlib
import sys

import pytest
from absl import flags

from aster_jax import config, main, workdir
from aster_jax.errors import GaveUp, InputError, Leaving

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
        (["--config.seed", "2"], "runs/smoke-seed=2"),
        (["--config.seed", "2", "--config.sft.steps", "3"], "runs/smoke-seed=2-sft.steps=3"),
        (["--noconfig.rl.divide_by_std", "--config", "smoke"], "runs/smoke-norl.divide_by_std"),
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
        ([f"--config={SMOKE}", "--config.rl.lr=5"], "did you mean --config.rl.learning_rate?"),
        ([f"--config={SMOKE}", "--workdri=x"], "did you mean --workdir?"),
        ([f"--config={SMOKE}", "--learning_rate=5"], "did you mean --config.rl.learning_rate?"),
        ([f"--config={SMOKE}", "--config.sft.steps=many"], "many"),
        (["--config=experiments/absent.py"], "there is no experiment 'experiments/absent.py'"),
        (["--config", "quickstrat"], "did you mean quickstart?"),
        (["--config"], "config"),
    ],
)
def test_a_wrong_argument_is_one_line_and_no_success(parse, arguments, text):
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    message = str(caught.value.code)
    assert message.startswith("aster_jax: ") and text in message
    assert "\n" not in message.strip(), message


@pytest.mark.parametrize("given", [["--config", "smoke"], ["-config=smoke"]])
def test_an_experiment_is_found_by_its_name(parse, monkeypatch, tmp_path, given):
    monkeypatch.chdir(tmp_path)
    parse(*given, "--config.seed=9")
    assert (flags.FLAGS.config.name, flags.FLAGS.config.seed) == ("smoke", 9)


def test_help_is_ours(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main", "--config", "smoke", "--help"])
    main.cli()
    assert "python -m aster_jax.main --config quickstart" in capsys.readouterr().out


def test_unknown_flag_text():
    assert main.unknown_flag_text("config.rl.grup") == (
        "unknown flag --config.rl.grup; did you mean --config.rl.group?"
    )
    assert main.unknown_flag_text("config.zzzzqqqq").endswith("see aster_jax/config.py")


def test_every_stage_has_its_function():
    assert tuple(main.STAGES) == config.STAGES


@pytest.fixture
def stage_that(tmp_path, one_device, monkeypatch):
    """A run whose one stage does nothing but raise."""

    def run(error):
        c = config.default()
        c.name, c.stages = "t", ("demos",)

        def fail(run):
            raise error

        monkeypatch.setitem(main.STAGES, "demos", fail)
        monkeypatch.setattr(main, "_check", lambda run: None)
        made = workdir.open_run(c, tmp_path, one_device)
        main._run_stages(made)

    return run


def test_a_report_of_before_is_made_again_after_a_kill(tmp_path, one_device, monkeypatch):
    """Killed between a stage that had more to do and the report, the next start makes the report."""
    c = config.default()
    c.name, c.stages = "t", ("demos", "report")
    made, reports = workdir.open_run(c, tmp_path, one_device), []

    def report(run):
        if reports.append(len(reports)) or len(reports) == 2:
            raise RuntimeError("killed")
        run.finish("report", {})

    monkeypatch.setattr(main, "_check", lambda run: None)
    monkeypatch.setitem(main.STAGES, "demos", lambda run: run.finish("demos", {}))
    monkeypatch.setitem(main.STAGES, "report", report)
    main._run_stages(made)
    main._run_stages(made)
    assert reports == [0]
    made.open_again("demos")  # as where more is asked of it
    with pytest.raises(RuntimeError, match="killed"):
        main._run_stages(made)
    main._run_stages(made)
    assert reports == [0, 1, 2] and made.is_finished("report")


def log(path):
    return (path / "error.log").read_text() if (path / "error.log").exists() else ""


def test_a_mistake_of_ours_keeps_its_traceback(stage_that, tmp_path, capsys):
    """Also a ValueError: numpy, jax and optax raise those for anything."""
    with pytest.raises(ValueError, match="broadcast"):
        stage_that(ValueError("operands could not be broadcast together"))
    assert "Traceback" in log(tmp_path) and "in fail" in log(tmp_path)
    assert "error.log" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code",  # a text: Python prints it and exits with code 1
    [(InputError("a value"), "aster_jax: a value"), (GaveUp("five in a row"), 3)],
)
def test_what_the_user_has_to_mend_is_a_sentence(
    stage_that, tmp_path, monkeypatch, capsys, error, code
):
    with pytest.raises(type(error)):
        stage_that(error)
    assert str(error) in log(tmp_path)  # in the middle of a run it is kept, too

    def run_and_raise(*_, **__):
        raise error

    monkeypatch.setattr(main.app, "run", run_and_raise)
    with pytest.raises(SystemExit) as caught:
        main.cli()
    assert caught.value.code == code
    if code == 3:
        assert capsys.readouterr().err.endswith("aster_jax: five in a row\n")


def test_any_other_error_is_not_cut_down_to_its_text(monkeypatch):
    def run_and_raise(*_, **__):
        raise ValueError("shapes (3,) (4,)")

    monkeypatch.setattr(main.app, "run", run_and_raise)
    with pytest.raises(ValueError, match="shapes"):
        main.cli()


def test_leaving_is_an_exit_code_of_its_own(stage_that, tmp_path):
    with pytest.raises(SystemExit) as caught:
        stage_that(Leaving())
    assert caught.value.code == 143 and log(tmp_path) == ""
