"""What the report of a run consists of, for a run that has only begun."""

from aster_jax.report import records, sections

CONFIG = {"name": "n", "seed": 0, "stages": ["sft", "rl1"], "model": {"source": "scratch"}}


def test_a_run_without_anything_has_its_parts_all_the_same():
    sheet, numbers = sections.of_run(records.RunRecords(CONFIG, {}, [], [], [], [], [], []))
    assert [t.title for t in sheet.tables] == [
        "Results", "Alarms", "Tool use", "Accuracy by family, %", "Stages"
    ]  # fmt: skip
    assert [f.name for f in sheet.figures] == ["accuracy", "rl", "tools", "calls", "sft"]
    assert all(figure.png is None for figure in sheet.figures)
    assert (sheet.title, numbers["alarms"], numbers["budgets"]) == ("n", [], {})
