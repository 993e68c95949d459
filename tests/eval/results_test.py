"""Entries, what stands beside them of earlier settings, and differences."""

from aster_jax import config, settings
from aster_jax.eval import arms, passk, results
from aster_jax.report import records
from tests.eval import passk_test


def arm(checkpoint="sft", name="main", fingerprint="f" * 64, evaluation="main"):
    section = settings.evaluations(config.default())["main"]
    return arms.Arm(checkpoint, 3, evaluation, name, section, "generated", fingerprint)


def made(right, problems=4):
    return [passk_test.record(f"p{i}", 0, float(i < right)) for i in range(problems)]


def test_an_entry_says_what_was_asked_and_what_came_of_it():
    entry = results.entry(arm(name="no_tool"), made(3), False, 0)
    assert set(records._RESULT_KEYS) <= set(entry)
    assert entry["file"] == "eval/sft_main_no_tool_ffffffff.jsonl"
    assert (entry["step"], entry["max_calls"], entry["tokens"], entry["samples"]) == (3, 0, 384, 1)
    assert (entry["complete"], entry["avg_at_k"]) == (False, 0.75)


def test_earlier_settings_stay_after_what_is_asked_for():
    old, new = arm(fingerprint="a" * 64), arm(fingerprint="b" * 64)
    book = results.Book([old], [{"checkpoint": "of an older version"}], 0)
    book.enter(old, made(1), True)
    before = book.results()
    assert [e["file"] for e in before] == [old.file]
    book = results.Book([new], before, 0)
    assert book.results() == before  # while the new one is made
    book.enter(new, made(2), True)
    assert [e["file"] for e in book.results()] == [new.file, old.file]
    assert book.asked() == [new.file] and book.results()[1:] == before
    # Asked for again, the old one is taken back.
    book = results.Book([old], book.results(), 0)
    book.enter(old, made(1), True)
    assert [e["file"] for e in book.results()] == [old.file, new.file]
    assert book.asked() == [old.file] and book.results()[:1] == before


def test_every_checkpoint_is_compared_with_every_later_one():
    wanted = [arm(c, n) for c in ("base", "sft", "rl1") for n in ("main", "think")]
    book = results.Book(wanted, [], 0)
    for member, right in zip(wanted, (0, 1, 2, 1, 4, 1)):
        book.enter(member, made(right), True)
    found = book.differences()
    assert all(set(records._DIFFERENCE_KEYS) <= set(d) for d in found)
    assert {(d["before"], d["after"], d["arm"]): d["delta"] for d in found} == {
        ("base", "sft", "main"): 0.5, ("base", "rl1", "main"): 1.0, ("sft", "rl1", "main"): 0.5,
        ("base", "sft", "think"): 0.0, ("base", "rl1", "think"): 0.0,
        ("sft", "rl1", "think"): 0.0,
    }  # fmt: skip
    expected = passk.difference(made(0), made(2), 0)
    assert {k: found[0][k] for k in expected} == expected


def test_an_arm_with_something_lost_is_not_covered():
    c, whole, torn = config.default(), arm("base"), arm("sft")
    book = results.Book([whole, torn], [], 0)
    book.enter(whole, made(1), True)
    book.enter(torn, made(1), False)
    covered = book.covered(c)
    assert [covered[a.file]["complete"] for a in (whole, torn)] == [True, False]
    assert not arms.are_covered(c, [whole, torn], {"arms": covered})
    assert arms.are_covered(c, [whole], {"arms": {whole.file: covered[whole.file]}})
