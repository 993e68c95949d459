"""What may change between two starts of a run: by stage, by key, by file."""

import json

import pytest

from aster_jax import config, pools, workdir
from aster_jax.errors import InputError
from aster_jax.lifetime import changes


def settings(**values):
    c = config.default()
    c.name = "t"
    for key, value in values.items():
        section, _, name = key.partition("__")
        if name:
            c[section][name] = value
        else:
            c[section] = value
    return c.lock()


def begin(path, mesh, *stages, done=(), **values):
    """A workdir in which these stages have begun, and those of `done` finished at so many steps."""
    run = workdir.open_run(settings(**values), path, mesh)
    for stage in stages:
        run.begin(stage)
    for stage, step in dict(done).items():
        (path / stage / "checkpoints" / str(step)).mkdir(parents=True)
        run.finish(stage, {"step": step})
    return run


OPERATIONAL = [
    ("rollout__slots", 8), ("rollout__pool_tokens", 65_536), ("rollout__deadline_s", 9.0),
    ("rollout__call_s", 9.0), ("rollout__steps_per_dispatch", 4), ("rollout__ahead", 1),
    ("rl__micro_rows", 4), ("rl__save_every", 3), ("rl__keep", 5), ("rl__max_unusable", 9),
    ("sft__micro_rows", 4), ("sft__save_every", 7), ("tools__max_running", 3), ("mesh__data", 1),
    ("tools__niceness", 5), ("report", config.ConfigDict({"page_mib": 3.0})), ("notice_s", 9.0),
    ("rl1__micro_rows", 2), ("rl__eval_every", 5), ("model__remat", True),
    ("eval__temperature", 0.6), ("eval__response_tokens", 99), ("problems__heldout", "h.jsonl"),
    ("problems__num_heldout", 9), ("eval__also", ({"name": "x", "temperature": 0.1},)),
    ("stages", ("demos", "sft", "rl1")),
]  # fmt: skip


@pytest.mark.parametrize("key, value", OPERATIONAL)
def test_keys_that_say_how_the_work_is_done_may_change_at_any_time(
    tmp_path, one_device, key, value
):
    begin(tmp_path, one_device, "demos", "sft", "rl1", "filter", "rl2")
    workdir.open_run(settings(**{key: value}), tmp_path, one_device)
    lines = (tmp_path / "config_history.jsonl").read_text().splitlines()
    assert len(lines) == 1 and key.replace("__", ".").split(".")[-1] in lines[0]


@pytest.mark.parametrize(
    "begun, key, value, named",
    [
        ("demos", "seed", 4, "seed: 0 -> 4 .demos is under way"),
        ("demos", "demos__count", 9, "demos.count: 256 -> 9"),
        ("sft", "sft__learning_rate", 1.0, "sft.learning_rate"),
        ("sft", "model__num_layers", 3, "model.num_layers"),
        ("rl1", "rl__learning_rate", 1.0, "rl1.learning_rate"),
        ("rl1", "rl1__clip_low", 0.1, "rl1.clip_low: 0.2 -> 0.1"),
        ("rl1", "rollout__temperature", 0.5, "rollout.temperature"),
        ("rl1", "rl1__max_calls", 3, "rl1.max_calls"),
        ("rl1", "tools__wall_limit_s", 3.0, "tools.wall_limit_s"),
        ("rl2", "rl2__group", 4, "rl2.group"),
        ("rl2", "rl1__hand_on", "best", "rl1.hand_on"),
        ("filter", "filter__min_kept", 9, "filter.min_kept"),
    ],
)
def test_what_a_stage_has_begun_with_may_not(tmp_path, one_device, begun, key, value, named):
    begin(tmp_path, one_device, begun)
    with pytest.raises(InputError, match=f"{named}.*--workdir"):
        workdir.open_run(settings(**{key: value}), tmp_path, one_device)


@pytest.mark.parametrize(
    "begun, key, value",
    [
        ("demos", "sft__learning_rate", 1.0),
        ("sft", "rl__learning_rate", 1.0),
        ("rl1", "rl2__learning_rate", 1.0),
        ("rl1", "filter__min_kept", 9),
        ("rl1", "rl2__max_calls", 3),
        ("sft", "demos__count", 9),  # demos never began here: RL of somebody else's model
    ],
)
def test_a_stage_that_has_not_begun_is_free(tmp_path, one_device, begun, key, value):
    begin(tmp_path, one_device, begun)
    workdir.open_run(settings(**{key: value}), tmp_path, one_device)


def test_rl_may_draw_from_other_problems_than_finished_demonstrations(tmp_path, one_device):
    run = begin(tmp_path, one_device, "demos")
    with pytest.raises(InputError, match="problems.digits: 2 -> 3 .demos is under way"):
        workdir.open_run(settings(problems__digits=3), tmp_path, one_device)
    run.finish("demos", {})
    workdir.open_run(settings(problems__digits=3), tmp_path, one_device)


def test_what_a_stage_overrides_is_not_touched_by_the_shared_key(tmp_path, one_device):
    begin(tmp_path, one_device, "rl1", rl1__learning_rate=3e-6)
    both = settings(rl1__learning_rate=3e-6, rl__learning_rate=1.0)
    workdir.open_run(both, tmp_path, one_device)


def test_steps_may_be_added_until_something_goes_on_from_them(tmp_path, one_device):
    run = begin(tmp_path, one_device, "rl1", done={"rl1": 30}, rl1__steps=30)
    assert run.is_finished("rl1")
    longer = workdir.open_run(settings(rl1__steps=35), tmp_path, one_device)
    assert not longer.is_finished("rl1")
    longer.begin("rl1")
    assert not longer.has_ended("rl1")
    longer.finish("rl1", {"step": 35})
    assert longer.is_finished("rl1")
    longer.begin("rl2")
    with pytest.raises(InputError, match="rl1.steps: 35 -> 40 .rl2 has begun"):
        workdir.open_run(settings(rl1__steps=40), tmp_path, one_device)


def test_fewer_steps_than_are_made_are_refused(tmp_path, one_device):
    begin(tmp_path, one_device, "rl1", rl1__steps=30)
    (tmp_path / "rl1" / "checkpoints" / "12").mkdir(parents=True)
    workdir.open_run(settings(rl1__steps=20), tmp_path, one_device)
    with pytest.raises(InputError, match="rl1.steps: 30 -> 10 .12 steps are made"):
        workdir.open_run(settings(rl1__steps=10), tmp_path, one_device)


def test_the_filter_is_made_again_when_stage_1_got_longer(tmp_path, one_device):
    run = begin(tmp_path, one_device, "rl1", "filter", done={"rl1": 30}, rl1__steps=30)
    run.finish("filter", {"rl1_step": 30})
    assert run.is_finished("filter")
    longer = workdir.open_run(settings(rl1__steps=35), tmp_path, one_device)
    longer.finish("rl1", {"step": 35})
    assert not longer.is_finished("filter")


def test_a_key_that_a_new_version_adds_locks_nobody_out(tmp_path, one_device):
    begin(tmp_path, one_device, "rl1")
    path = tmp_path / "rl1" / "began.json"
    known = json.loads(path.read_text())
    del known["keys"]["rl1.clip_low"]
    known["keys"]["rl1.of_an_old_version"] = 3
    path.write_text(json.dumps(known))
    workdir.open_run(settings(), tmp_path, one_device)


def test_other_contents_of_a_file_that_is_being_trained_on_are_refused(tmp_path, one_device):
    rows = tmp_path / "p.jsonl"
    rows.write_text(json.dumps({"question": "What is 1+1?", "answer": "2"}) + "\n")
    begin(tmp_path / "run", one_device, "rl1", problems__source=str(rows))
    workdir.open_run(settings(problems__source=str(rows)), tmp_path / "run", one_device)
    rows.write_text(json.dumps({"question": "What is 1+1?", "answer": "3"}) + "\n")
    with pytest.raises(InputError, match="the contents of .*p.jsonl"):
        workdir.open_run(settings(problems__source=str(rows)), tmp_path / "run", one_device)


def test_a_folder_named_like_no_weights_is_not_read(tmp_path, one_device, monkeypatch):
    """`model.source="scratch"` names no file, whatever lies where the command is given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "notes").write_text("unlike any weights")
    assert changes.files(settings(), "sft") == {}


def test_a_file_is_what_it_holds_wherever_it_stands(tmp_path, one_device):
    """Weights and problems under another spelling, or moved with the run."""
    old, run = tmp_path / "old", tmp_path / "old" / "run"
    (old / "weights").mkdir(parents=True)
    (old / "weights" / "config.json").write_text("{}")
    (old / "p.jsonl").write_text(json.dumps({"question": "What is 1+1?", "answer": "2"}) + "\n")

    def named(place):
        return {"model__source": f"{place}/weights", "problems__source": f"{place}/p.jsonl"}

    begin(run, one_device, "demos", "sft", "rl1", **named(old))
    workdir.open_run(settings(**named(f"{old}/../old")), run, one_device)
    new = old.rename(tmp_path / "new")
    workdir.open_run(settings(**named(new)), new / "run", one_device)
    kept = json.loads((new / "run" / "config.json").read_text())
    assert kept["model"]["source"] == f"{new}/weights"
    (new / "weights" / "config.json").write_text("{ }")
    with pytest.raises(InputError, match="model.source: .*old/weights -> .*new/weights"):
        workdir.open_run(settings(**named(new)), new / "run", one_device)


def rows(path, *numbers):
    """A file of problems at `path`, whose folder is made; its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [{"question": f"What is {n}+1?", "answer": f"{n + 1}"} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def files(place, **values):
    return {"problems__source": f"{place}/p.jsonl", "problems__heldout": f"{place}/held.jsonl", **values}


@pytest.mark.parametrize("of_an_old_version", [False, True])
def test_a_held_out_file_that_has_moved_is_left_out_under_its_new_name(
    tmp_path, one_device, of_an_old_version
):
    old, run = tmp_path / "old", tmp_path / "run"
    rows(old / "p.jsonl", *range(9))
    rows(old / "held.jsonl", 3, 4)
    begin(run, one_device, "rl1", **files(old))
    path = run / "rl1" / "began.json"
    began = json.loads(path.read_text())
    if of_an_old_version:
        path.write_text(json.dumps({**began, "heldout": list(began["heldout"])}))
    new = old if of_an_old_version else old.rename(tmp_path / "new")
    # One that is named later is not left out: the stage goes on with the problems it had.
    more = ({"name": "more", "heldout": rows(tmp_path / "more.jsonl", 7)},)
    c = settings(**files(new, eval__also=more))
    again = workdir.open_run(c, run, one_device)
    left = changes.left_out(c, again.begin("rl1"))
    assert left == changes.LeftOut((f"{new}/held.jsonl",), False)
    assert len(pools.train(c, left)) == 7


def test_other_contents_of_a_held_out_file_are_refused_where_it_is_left_out(tmp_path, one_device):
    rows(tmp_path / "p.jsonl", *range(9))
    held = tmp_path / "held.jsonl"
    for stage, source, is_left_out in (
        ("rl1", "p", True), ("rl2", "p", True), ("rl1", "generated", False), ("sft", "p", False),
    ):  # fmt: skip
        run = tmp_path / f"{stage}_{source}"
        keys = files(tmp_path) | ({"problems__source": source} if source == "generated" else {})
        rows(held, 3, 4)
        begin(run, one_device, stage, **keys)
        workdir.open_run(settings(**keys), run, one_device)
        rows(held, 3, 5)
        if is_left_out:
            with pytest.raises(InputError, match=f"the contents of .*held.jsonl.*{stage} is under way"):
                workdir.open_run(settings(**keys), run, one_device)
            # Under another name it is one more evaluation, as long as the old one stands there.
            mended = rows(tmp_path / "mended.jsonl", 3, 5)
            rows(held, 3, 4)
            workdir.open_run(settings(**{**keys, "problems__heldout": mended}), run, one_device)
        else:
            workdir.open_run(settings(**keys), run, one_device)


def test_nothing_is_measured_on_what_a_stage_trains_on(tmp_path, one_device):
    """The validation split is set apart when a stage begins, or not at all."""
    rows(tmp_path / "p.jsonl", *range(99))
    plain = {"problems__source": f"{tmp_path}/p.jsonl"}
    measured = {**plain, "rl__eval_every": 5}
    begin(tmp_path / "plain", one_device, "rl1", **plain)
    for key in ("rl__eval_every", "rl2__eval_every", "sft__probe_every"):
        asked = key.replace("__", ".")
        with pytest.raises(InputError, match=f"{asked}=5: nothing was set apart .*rl1 is under way"):
            workdir.open_run(settings(**plain, **{key: 5}), tmp_path / "plain", one_device)
    # The other way round it goes on as it began, and a stage to come is as the config says.
    begin(tmp_path / "measured", one_device, "rl1", **measured)
    c = settings(**plain)
    run = workdir.open_run(c, tmp_path / "measured", one_device)
    left = [changes.left_out(c, run.begin(stage)) for stage in ("rl1", "rl2")]
    assert [len(pools.train(c, each)) for each in left] == [99 - c.problems.num_validation, 99]
    # One of an older version does not say: it goes on by the config, as it did.
    path = tmp_path / "plain" / "rl1" / "began.json"
    began = json.loads(path.read_text())
    del began["keys"][changes.SETS_APART]
    path.write_text(json.dumps(began))
    c = settings(**measured)
    run = workdir.open_run(c, tmp_path / "plain", one_device)
    assert changes.left_out(c, run.begin("rl1")).validation


@pytest.mark.parametrize("key, value", [("suffix", " Think."), ("digits", 3), ("families", ("mod",))])
def test_what_probes_ask_belongs_to_sft_until_it_is_made(tmp_path, one_device, key, value):
    probed = {"sft__probe_every": 5}
    other = settings(**probed, **{f"problems__{key}": value})
    run = begin(tmp_path / "probed", one_device, "sft", **probed)
    with pytest.raises(InputError, match=f"problems.{key}: .*sft is under way"):
        workdir.open_run(other, run.path, one_device)
    run.finish("sft", {"step": 100})
    workdir.open_run(other, run.path, one_device)
    longer = settings(**probed, **{f"problems__{key}": value}, sft__steps=200)
    with pytest.raises(InputError, match=f"problems.{key}: "):
        workdir.open_run(longer, run.path, one_device)
    begin(tmp_path / "plain", one_device, "sft")
    workdir.open_run(settings(**{f"problems__{key}": value}), tmp_path / "plain", one_device)


def test_the_file_that_probes_come_from_may_not_change_under_way(tmp_path, one_device):
    keys = files(tmp_path, sft__probe_every=5)
    rows(tmp_path / "held.jsonl", 3)
    for name in ("p", "held"):
        rows(tmp_path / "p.jsonl", *range(99))
        run = begin(tmp_path / name / "run", one_device, "sft", **keys)
        before = (tmp_path / f"{name}.jsonl").read_text()
        rows(tmp_path / f"{name}.jsonl", 1, 2)
        with pytest.raises(InputError, match=f"the contents of .*{name}.jsonl.*sft is under way"):
            workdir.open_run(settings(**keys), run.path, one_device)
        run.finish("sft", {"step": 100})
        workdir.open_run(settings(**keys), run.path, one_device)
        (tmp_path / f"{name}.jsonl").write_text(before)


@pytest.mark.parametrize("file", ["config.json", "rl1/began.json", "rl1/DONE.json"])
def test_a_file_of_the_run_that_is_torn_is_named_with_what_to_do(tmp_path, one_device, file):
    begin(tmp_path, one_device, "rl1", done={"rl1": 30}, rl1__steps=30)
    for text in ('{"st', "[]"):
        (tmp_path / file).write_text(text)
        with pytest.raises(InputError, match=f"{file}.*remove it, and the command of the run"):
            run = workdir.open_run(settings(rl1__steps=30), tmp_path, one_device)
            run.begin("rl1")
            run.summary("rl1")


def test_every_key_is_of_a_stage_or_free():
    """A new key of a training section determines its stage unless it is said not to."""
    c = settings(sft__probe_every=5)
    for stage in ("sft", "rl1", "rl2"):
        own = {k for k in changes.determining(c, stage) if k.startswith(f"{stage}.")}
        section = c.sft if stage == "sft" else config.rl_stage(c, stage)
        free = {f"{stage}.{name}" for name in section} - own
        assert free <= {f"{stage}.{p.split('.')[1]}" for p in changes.OPERATIONAL} | {
            f"{stage}.hand_on"
        }
