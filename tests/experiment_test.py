"""An experiment's file: found by its name from anywhere, and one sentence for what is wrong."""

import pathlib

import pytest
from ml_collections import ConfigDict

from aster_jax import config, experiment
from aster_jax.errors import InputError

FOLDER = pathlib.Path(__file__).parents[1] / "experiments"


@pytest.mark.parametrize(
    "name, file",
    [
        ("quickstart", "quickstart.py"), ("quickstart.py", "quickstart.py"),
        ("experiments/quickstart.py", "quickstart.py"), ("./experiments/smoke.py", "smoke.py"),
        ("studies/quickstart_direct", "studies/quickstart_direct.py"),
        ("aster_4b:16", "aster_4b.py:16"), ("experiments/aster_4b.py:", "aster_4b.py:"),
    ],
)  # fmt: skip
def test_what_comes_along_is_found_from_any_directory(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert experiment.find(name) == str(FOLDER / file)


def test_a_file_that_is_there_goes_before_one_that_comes_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "quickstart.py").write_text("")
    assert experiment.find("experiments/quickstart.py:x") == "experiments/quickstart.py:x"
    assert experiment.find("quickstart") == str(FOLDER / "quickstart.py")


def test_all_that_come_along_can_be_read():
    assert {"quickstart", "smoke", "aster_4b", "studies/quickstart_direct"} <= set(experiment.names())
    for name in experiment.names():
        made = experiment.read(name)
        assert isinstance(made, ConfigDict) and made.name == name.rpartition("/")[2]
    assert experiment.read("aster_4b:16").mesh.fsdp == 16


@pytest.mark.parametrize(
    "text, said",
    [
        ("def get_config(:\n", "line 1: SyntaxError"),
        ("import absent_module\n", "line 1: ModuleNotFoundError: No module named 'absent_module'"),
        ("\nx = undefined\n", "line 2: NameError"),
        ("x = 1\n", "has no function get_config()"),
        ("get_config = 3\n", "has no function get_config()"),
        ("def get_config():\n    pass\n", "returns NoneType, not a config"),
        ("def get_config():\n    return {}\n", "returns dict, not a config"),
        ("def get_config():\n    x = 1\n    return 1 / 0\n", "line 3: ZeroDivisionError"),
        ("def get_config(x, y):\n    return x\n", "TypeError"),
        (
            "from aster_jax import config\n\ndef get_config():\n    c = config.default()\n"
            "    c.rl.lr = 1.0\n    return c\n",
            "line 5: AttributeError",
        ),
        ("x = '\0'\n", "null bytes"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence_with_its_line(tmp_path, text, said):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        experiment.read(str(path))
    sentence = str(caught.value)
    assert said in sentence and str(path) in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    "name, said",
    [
        ("experiments/absent.py", "give the path of a file or one of aster_1p7b"),
        ("quikstart", "did you mean quickstart?"),
        ("experiments/smok.py", "did you mean smoke?"),
        ("benchmarks/decode", "there is no experiment"),
        ("", "'' is no file"),
        (".", "'.' is no file"),
    ],
)
def test_a_name_that_nothing_has(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        experiment.read(name)
    assert said in str(caught.value)


def test_a_file_that_is_no_python(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("")
    with pytest.raises(InputError, match="ends with .py"):
        experiment.read(str(path))


def test_a_key_that_the_file_assigns_and_nobody_knows_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from aster_jax import config\ndef get_config():\n    c = config.default()\n"
                    "    c.sft.stepz = 1\n    return c\n")  # fmt: skip
    with pytest.raises(InputError, match="stepz"):
        experiment.read(str(path))
    assert "stepz" not in config.keys(config.default())


@pytest.mark.parametrize("name", ["aster_4b:abc", "aster_4b:0", "aster_4b:1.5", "trice_4b:-4", "aster_1p7b:x"])
def test_a_number_of_devices_that_is_none_is_said(name):
    argument = name.partition(":")[2]
    with pytest.raises(InputError, match=f"aster_4b:{argument}: behind the colon stands how many devices"):
        experiment.read(name)
