"""The table of runs and chips: meshes that could be, what is kept, and a line by hand."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from aster_jax import config_check
from experiments import aster_1p7b, aster_4b
from launch.plan import chips, remedies, sizes, table
from launch.plan.chips import GIB

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_chips_by_name():
    assert [sizes.chips_of(t) for t in ("v5e:4x4", "v5p:2x2x4", "v5p:4x4x4", "h100:8")] == [16, 16, 64, 8]


def test_meshes_leave_room_for_the_weights_while_sampling():
    """Of 4.02 B parameters, 8 chips hold 16 / 3 GiB of state each, and 7.5 GiB of bfloat16 all."""
    made, refused = sizes.candidates(aster_4b.get_config(), 8, 15.75 * GIB)
    assert table.shape(made[0]) == "fsdp 4 x tensor 2"
    assert len(refused) >= 4 and all("tensor 1: while sampling 13." in why for why in refused[:4])
    changed = remedies.changed(aster_4b.get_config(), made[0].changes)
    config_check.validate(changed)
    # A chip pair's pool has one row of 32,768 at least, as 36 layers x 2 x 1,024 x 2 bytes a token.
    assert changed.rollout.pool_tokens // 4 == 32_768 and changed.rollout.slots == 4 * 4
    assert changed.sft.rows == 64 and changed.sft.micro_rows == changed.rl.micro_rows == 4
    # With room, rows are spread over `context` before heads over `tensor`.
    made, refused = sizes.candidates(aster_1p7b.get_config(), 8, 31.24 * GIB)
    shapes = [table.shape(one) for one in made]
    assert shapes[:4] == ["fsdp 8", "fsdp 4 x context 2", "fsdp 2 x context 4", "context 8"]
    assert not refused and made[0].flags()[1] == "--config.mesh.fsdp=8"
    none, refused = sizes.candidates(aster_4b.get_config(), 8, 4 * GIB)
    assert not none and len(refused) == 9


def test_the_programs_that_decide():
    c = aster_1p7b.get_config()
    made, _ = sizes.candidates(c, 8, 31.24 * GIB)
    names = table.largest(remedies.changed(c, made[0].changes), 8)
    assert names == ["rl2 step", "adopt weights", "prefill 2048", "decode", "rl1 step"]


def test_what_is_known_is_not_asked_again(tmp_path):
    sized = sizes.Sized({"mesh.fsdp": 4})
    name = "smoke_v9_1_decode_mesh.fsdp=4.json"
    (tmp_path / name).write_text(json.dumps({"programs": {"decode": {"why_not": ""}}}))
    known = table.asked(tmp_path, "experiments/smoke.py", "v9:1", sized, "decode")
    assert known == {"programs": {"decode": {"why_not": ""}}}


def program(temporaries, why_not=""):
    return {
        "arguments": 3 * GIB, "outputs": 2 * GIB, "aliased": 2 * GIB,
        "temporaries": temporaries * GIB, "why_not": why_not,
    }  # fmt: skip


def test_lines_by_hand():
    sized = sizes.Sized({
        "mesh.data": 1, "mesh.fsdp": 8, "mesh.context": 2,
        "rollout.slots": 64, "rollout.pool_tokens": 65_536,
    })  # fmt: skip
    names = ["rl2 step", "rl1 step", "adopt weights", "prefill 2048", "decode"]
    hours = {
        "bytes": {
            "parameters": GIB, "moments": 2 * GIB, "weights while sampling": 4 * GIB, "cache": 5 * GIB,
        },
        "stages": [{"name": "rl1", "rollout_s": 100.4, "update_s": 50.0, "hours": 17.2}],
    }  # fmt: skip
    of = {
        "programs": {n: program(i) for i, n in enumerate(names)}, "asked": names, "sized": sized,
        "hours": hours, "refused": ["fsdp 16: rl2 step: too much"], "topology": "v6e:4x4",
        "chip": chips.CHIPS["v6e"], "config": aster_1p7b.get_config(),
    }  # fmt: skip
    one, two = table.rows(of)
    assert one == (
        "aster_1p7b", "v6e:4x4", "fsdp 8 x context 2", "18,432", "yes", "3.0 + 1.0 of 31.2 GiB",
        "3.0 + 4.0 + 5.0 + 4.0 of 31.2 GiB", "64, 65,536", "100 + 50 s", "17",
        "fsdp 16: rl2 step: too much",
    )  # fmt: skip
    assert two[3:6] == ("32,768", "yes", "3.0 + 0.0 of 31.2 GiB") and two[8:10] == ("", "")
    assert table.markdown([one, two]).count("\n") == 4
    # What has not been asked is not known, and what is refused is said.
    few = {"rl2 step": program(0), "rl1 step": program(1, "it takes 40 of the 31.24 GiB")}
    one, two = table.rows(of | {"programs": few, "refused": []})
    assert (one[4], one[5], one[-1]) == ("no", "", "rl1 step: it takes 40 of the 31.24 GiB")
    assert (two[4], two[-1]) == ("not known", "")
    (none, _) = table.rows(of | {"sized": None})
    assert none[2] == "none" and none[4] == "no"


@pytest.mark.slow
def test_the_table_is_made_and_goes_on_where_it_was(tmp_path):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the compiler is not installed: pip install libtpu==0.0.52")
    command = [
        sys.executable, "-m", "launch.plan.table", "--folder", str(tmp_path),
        "--configs", "experiments/smoke.py", "--topologies", "v5e:2x2",
    ]  # fmt: skip
    made = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(2)]
    assert made[0].returncode == 0, made[0].stderr[-2000:]
    assert "decode" in made[0].stdout and " ..." not in made[1].stdout
    assert made[1].stdout == (tmp_path / "TABLE.md").read_text() + "\n"
    assert made[1].stdout.count("| yes |") == 2
