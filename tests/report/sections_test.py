"""The sheet of a run's page: its parts, from whole records and from none."""

from aster_jax.report import gather, records, sections
from tests.report import made_run

CONFIG = {"name": "n", "seed": 0, "stages": ["sft", "rl1"], "model": {"source": "scratch"}}


def test_tables_and_sentences_of_a_whole_run(tmp_path):
    runs, _ = gather.runs([made_run.write(tmp_path / "run")], 8.0)
    (found,) = runs.values()
    sheet, numbers = sections.of_run(found)
    titles = [table.title for table in sheet.tables]
    assert titles[0] == "Results" and titles[-1] == "Stages"
    assert {"Alarms", "Tool use", "Tool use in training"} <= set(titles)
    assert len(titles) == len(set(titles))
    (training,) = [table for table in sheet.tables if table.title == "Tool use in training"]
    steps = sections.steps_of(found)
    shown = {f"{s['stage']} step {s['step']}" for s in steps}
    assert len(training.columns) == 1 + 2 * 2 and set(training.columns[1:]) <= shown
    assert len(numbers["tool_use_by_step"]) == len(steps) == 24
    # What became of tool use stands among the sentences, not in a table alone.
    assert any(text.startswith("RL moved accuracy") for text in sheet.conclusions)


def test_a_run_without_anything_has_its_parts_all_the_same():
    sheet, numbers = sections.of_run(records.RunRecords(CONFIG, {}, [], [], [], [], [], []))
    assert [t.title for t in sheet.tables] == [
        "Results", "Alarms", "Tool use", "Accuracy by family, %", "Stages"
    ]  # fmt: skip
    assert [f.name for f in sheet.figures] == ["accuracy", "rl", "tools", "calls", "sft"]
    assert all(figure.png is None for figure in sheet.figures)
    assert (sheet.title, numbers["alarms"], numbers["budgets"]) == ("n", [], {})
