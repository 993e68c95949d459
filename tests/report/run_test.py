"""The stage as main calls it, on a whole run and on one that has barely begun."""

import json

import pytest
from ml_collections import ConfigDict

from aster_jax import workdir
from aster_jax.report import __main__ as command
from aster_jax.report import run as report
from tests.report import made_run

FIGURES = ("accuracy", "budgets", "rl", "tools", "health", "endings", "calls", "time", "sft")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A whole run's workdir with its report, and the text that was returned."""
    path = made_run.write(tmp_path_factory.mktemp("run"))
    return path, report.write(path, 8.0)


def test_a_whole_run_gives_page_figures_and_summary(reported):
    path, text = reported
    made = {p.name for p in (path / "report").iterdir()}
    assert made == {"index.html", "summary.json", "summary.txt", *(f"{f}.png" for f in FIGURES)}
    summary = (path / "report" / "summary.txt").read_text()
    assert summary.startswith(text.rstrip()) and "Tool use" in summary
    assert "90.0 [84.0, 96.0]" in text and "+60.0 points [52.0, 68.0]" in text
    assert "Change in accuracy" in summary and "with other settings" not in summary
    page = (path / "report" / "index.html").read_text()
    assert page.count("data:image/png") == len(FIGURES) and "not run" not in page


def test_summary_json_holds_the_numbers_of_the_page(reported):
    numbers = json.loads((reported[0] / "report" / "summary.json").read_text())
    assert [r["checkpoint"] for r in numbers["results"]][::2] == ["base", "sft", "rl1", "rl2"]
    assert numbers["tool_use"]["rl2"]["calls_mean"] == 2.0
    assert len(numbers["tool_use_by_step"]) == 24
    assert [(a["alarm"], a["steps"]) for a in numbers["alarms"]] == [("interaction collapse", [5])]
    assert numbers["budgets"]["rl2"]["calls"][-1][1] == numbers["tool_use"]["rl2"]["accuracy"]


def test_as_a_stage_it_prints_its_table_is_finished_and_gives_the_same_page(
    reported, one_device, capsys
):
    path, text = reported
    before = (path / "report" / "index.html").read_bytes()
    stage = workdir.Run(ConfigDict({"report": {"page_mib": 8.0}}), path, one_device)
    report.run(stage)
    assert stage.is_finished("report")
    assert text in capsys.readouterr().out
    assert (path / "report" / "index.html").read_bytes() == before


def test_a_run_without_any_stage_yet(tmp_path):
    config = {"name": "n", "seed": 0, "stages": ["sft"], "model": {"source": "scratch"}}
    made_run.put(tmp_path / "config.json", json.dumps(config))
    text = report.write(tmp_path, 8.0)
    assert "Results: not run" in text
    assert list((tmp_path / "report").glob("*.png")) == []


def test_a_broken_line_leaves_no_page_behind(tmp_path):
    made_run.write(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match="metrics.jsonl, line 1"):
        report.write(tmp_path, 8.0)
    assert not (tmp_path / "report").exists()


def test_further_evaluations_and_earlier_settings_have_tables_of_their_own(tmp_path):
    path = made_run.write(tmp_path)
    made = [made_run.result("rl2", "main", 0.5, 2.0, 12) | {"pass_curve": [[1, 0.5, 0.4, 0.6]] * 2}]
    made.append(made[0] | {"evaluation": "cool", "k": 2})
    made.append(made[0] | {"file": "x.jsonl", "tokens": 64})
    made_run.put(path / "eval" / "results.json", json.dumps(made))
    report.write(path, 8.0)
    text = (path / "report" / "summary.txt").read_text()
    for title in ("Tool use, cool", "Evaluated before, with other settings"):
        assert title in text
    assert (path / "report" / "pass.png").exists()
    numbers = json.loads((path / "report" / "summary.json").read_text())
    assert (len(numbers["results"]), len(numbers["earlier_results"])) == (2, 1)


def test_what_is_over_a_size_goes_into_pages_beside_it(tmp_path):
    path = made_run.write(tmp_path)
    report.write(path, 0.004)
    pages = sorted(p.name for p in (path / "report").glob("index*.html"))
    assert pages[0] == "index-2.html" and pages[-1] == "index.html"
    first = (path / "report" / "index.html").read_text()
    assert 'href="index-2.html#episodes"' in first and "This page holds the texts of" in first
    assert "<h1>" not in (path / "report" / "index-2.html").read_text()
    report.write(path, 8.0)
    assert [p.name for p in (path / "report").glob("index*.html")] == ["index.html"]


def test_the_command_compares_runs(tmp_path, capsys, monkeypatch):
    paths = [made_run.write(tmp_path / name) for name in ("a", "b")]
    out = tmp_path / "both"
    monkeypatch.setattr("sys.argv", ["report", *map(str, paths), "--out", str(out)])
    assert command.main() == 0
    assert f"see {out / 'index.html'}" in capsys.readouterr().out
    text = (out / "summary.txt").read_text()
    assert text.startswith("a | b\n2 runs side by side")
    assert "90.0 [84.0, 96.0]" in text and "What differs" not in text
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "none")])
    assert command.main() == 1
    assert "is missing" in capsys.readouterr().err
