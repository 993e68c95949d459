"""Reading a workdir: whole, half-made, and damaged."""

import json

import pytest

from aster_jax.errors import InputError
from aster_jax.report import records
from tests.report import made_run

EPISODES = "eval/rl2_main_main_00000000.jsonl"


def test_a_whole_run(tmp_path):
    found = records.read(made_run.write(tmp_path))
    assert found.config["name"] == "made"
    assert len(found.results) == 8
    assert len(found.eval_rows) == 8 * 12
    assert len(found.rl_rows) == 2 * 12 * 8
    assert list(found.finished) == made_run.STAGES[:-1]


def test_everybody_who_counts_is_visited_with_file_and_line(tmp_path):
    seen = []
    found = records.read(
        made_run.write(tmp_path), lambda record, file, line: seen.append((record, file, line))
    )
    assert len(seen) == len(found.eval_rows) + len(found.rl_rows)
    for record, file, line in seen[::17]:
        assert json.loads((tmp_path / file).read_text().splitlines()[line - 1]) == record
    steps = [(r["stage"], r["step"]) for r, _, _ in seen if r["stage"] != "eval"]
    assert steps[0] == ("rl2", 12) and steps[-1] == ("rl1", 1)  # the newest first
    assert [(r.stage, r.step) for r in found.rl_rows] == sorted(steps)
    assert records.episodes(tmp_path) == [record for record, _, _ in seen]


def test_a_run_that_only_began(tmp_path):
    made_run.put(tmp_path / "config.json", json.dumps({"name": "n", "stages": ["sft"]}))
    found = records.read(tmp_path)
    assert (found.metrics, found.results, found.rl_rows, found.finished) == ([], [], [], {})


def test_a_directory_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="config.json is missing.*workdir"):
        records.read(tmp_path)
    made_run.put(tmp_path / "config.json", json.dumps({"model_type": "qwen3", "num_hidden_layers": 2}))
    with pytest.raises(InputError, match="config.json is of no run: .* is not the workdir of a run"):
        records.read(tmp_path)


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("metrics.jsonl", "{torn", "line 85: not JSON"),
        ("metrics.jsonl", '{"stage": "sft"}', r"line 85: keys \['step', 'time_s'\] are missing"),
        (EPISODES, "7", "line 13: expected an object, found int"),
        (EPISODES, "{}", "line 13: keys"),
        ("rl1/episodes/step_000003.jsonl", "", "line 9: not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, file, line, said):
    made_run.write(tmp_path)
    with open(tmp_path / file, "a") as f:
        f.write(line + "\n")
    with pytest.raises(ValueError, match=f"{file}, {said}"):
        records.read(tmp_path)


def test_a_last_line_that_a_kill_tore_is_passed_over(tmp_path):
    made_run.write(tmp_path)
    whole = records.read(tmp_path)
    for file in ("metrics.jsonl", "rl1/episodes/step_000003.jsonl"):
        with open(tmp_path / file, "ab") as f:
            f.write('{"stage": "rl1", "name": "é'.encode()[:-1])  # in the middle of a letter
    assert records.read(tmp_path) == whole


@pytest.mark.parametrize("file", ["config.json", "rl1/DONE.json", "eval/DONE.json", "eval/asked.json"])
@pytest.mark.parametrize("text, said", [
    (b'{"step"', "line 1: not JSON"), (b"", "line 1: not JSON"), (b"\xff", "not JSON"),
    (b"7", "expected an? .*, found int"),
])  # fmt: skip
def test_a_broken_file_is_named_with_what_to_do(tmp_path, file, text, said):
    made_run.write(tmp_path)
    (tmp_path / file).write_bytes(text)
    with pytest.raises(InputError, match=f"{file}.*{said}.*remove it, and the command of the run"):
        records.read(tmp_path)


def test_an_episode_with_broken_calls_is_named(tmp_path):
    made_run.write(tmp_path)
    made_run.put_lines(tmp_path / EPISODES, [made_run.episode(calls=[{}])])
    with pytest.raises(ValueError, match=f"{EPISODES}, line 1: not an episode record"):
        records.read(tmp_path)


def test_broken_results_are_named(tmp_path):
    made_run.write(tmp_path)
    made_run.put(tmp_path / "eval" / "results.json", "[\n{]")
    with pytest.raises(ValueError, match="results.json, line 2: not JSON"):
        records.read(tmp_path)
    made_run.put(tmp_path / "eval" / "results.json", '[{"arm": "main"}]')
    with pytest.raises(ValueError, match="results.json, entry 1: keys"):
        records.read(tmp_path)


def test_a_result_counts_its_own_samples_of_its_own_problems(tmp_path):
    # The file holds 3 samples and 2 more problems from when more were asked for.
    made_run.write(tmp_path)
    result = made_run.result("rl2", "main", 0.5, 2.0, 4) | {"samples": 2, "k": 2}
    made_run.put(tmp_path / "eval" / "results.json", json.dumps([result]))
    made = [made_run.episode(problem_id=f"p{p}", sample=s) for p in range(6) for s in range(3)]
    made_run.put_lines(tmp_path / EPISODES, made)
    assert len(records.read(tmp_path).eval_rows) == 4 * 2


def test_results_of_earlier_settings_stand_apart(tmp_path):
    made_run.write(tmp_path)
    now, before = made_run.result("rl2", "main", 0.5, 2.0, 12), {"file": "x.jsonl", "tokens": 64}
    made_run.put(tmp_path / "eval" / "results.json", json.dumps([now, now | before]))
    found = records.read(tmp_path)
    assert ([r["tokens"] for r in found.results], found.earlier[0]["tokens"]) == ([384], 64)
    assert len(found.eval_rows) == 12
