"""Config, experiments and documents agree with each other and with the code.

Every key is commented and used, every experiment resolves, and what the pages name (files, links,
keys, numbers, the tree) is there. Their commands are tried in `documents_commands_test.py`, what they
quote of errors is looked for in `documents_errors_test.py`.
"""

import ast
import importlib.util
import math
import pathlib
import re

import jax
import pytest

from aster_jax import config, config_check
from aster_jax import mesh as meshes
from docs import configuration
from tests import architecture_test, documents, source_tree

ROOT = source_tree.ROOT


def test_every_config_key_carries_a_comment():
    lines = (ROOT / "aster_jax" / "config.py").read_text("utf-8").splitlines()
    wrong = []
    for node in ast.walk(source_tree.parsed("aster_jax")["config.py"]):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)):
            continue
        is_section = ast.unparse(node.value).startswith("_")
        if not is_section and "  # " not in lines[node.lineno - 1]:
            wrong.append(f"config.py:{node.lineno} {lines[node.lineno - 1].strip()}")
    source_tree.check(wrong)


def test_every_config_key_is_listed_once():
    wrong = []
    for f in source_tree.functions(source_tree.parsed("aster_jax")["config.py"]):
        names = [
            ast.unparse(n.targets[0]) for n in f.body
            if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Attribute)
        ]  # fmt: skip
        wrong += [f"{f.name}: {n}" for n in set(names) if names.count(n) > 1]
    source_tree.check(wrong)


def test_every_config_key_is_used():
    used = set()
    for path, tree in source_tree.parsed("aster_jax").items():
        if path == "config.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used.add(node.value)
    names = config.keys(config.default())
    assert len(names) == len(set(names))
    source_tree.check([n for n in names if n.rpartition(".")[2] not in used])


EXPERIMENTS = sorted(p for p in (ROOT / "experiments").rglob("*.py") if p.stem != "__init__")
CONFIGS = [p for p in EXPERIMENTS if "def get_config(" in p.read_text("utf-8")]


def _experiment(path: pathlib.Path):
    """The module of an experiment file."""
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_experiment_resolves(path):
    module = _experiment(path)
    made = module.get_config()
    config_check.validate(made)
    assert set(config.keys(made)) == set(config.keys(config.default()))
    command = f"python -m aster_jax.main --config {path.relative_to(ROOT).as_posix()}"
    assert command in module.__doc__


LAUNCHING = (ROOT / "launch" / "README.md").read_text("utf-8")
SLICE = re.search(r"ACCELERATOR_TYPE=(\S+)", LAUNCHING)[1]
COMMANDS = re.findall(r"^launch/tpu_resume\.sh --config experiments/(\w+)\.py", LAUNCHING, re.M)


def _devices(slice_name: str) -> int:
    """JAX devices of a slice: v5p names count TensorCores, two to a chip; v6e names chips."""
    kind, count = slice_name.split("-")
    return int(count) // {"v5p": 2, "v6e": 1}[kind]


@pytest.mark.parametrize(
    ("name", "slice_name", "changed"),
    [*((name, SLICE, {}) for name in COMMANDS), ("quickstart", "v6e-8", {"rl.micro_rows": 8}),
     ("smollm2_135m", "v5p-8", {"sft.rows": 4, "sft.micro_rows": 4, "rl.micro_rows": 4})],
)  # fmt: skip
def test_what_the_launch_page_says_fits_a_slice_of_one_host_does(name, slice_name, changed):
    c = _experiment(ROOT / "experiments" / f"{name}.py").get_config()
    c.update_from_flattened_dict(changed)
    (line,) = (x for x in LAUNCHING.splitlines() if x.startswith(f"| `{slice_name}`"))
    assert all(f"--config.{key}={value}" in line for key, value in changed.items())
    config_check.validate(c)
    devices = jax.devices()[: _devices(slice_name)]
    assert len(devices) == _devices(slice_name), "more devices than one host has"
    mesh = meshes.build(**c.mesh, devices=devices)
    shards = meshes.batch_shards(mesh)
    for rows in (c.sft.micro_rows, c.rl.micro_rows, c.rollout.slots):
        assert rows % shards == 0


def test_the_launch_page_counts_devices_right():
    table = dict(re.findall(r"^\| `(v\w+-\d+)` \| (\d+) \|", LAUNCHING, re.M))
    assert len(table) == 4
    assert {name: int(count) for name, count in table.items()} == {n: _devices(n) for n in table}
    c = _experiment(ROOT / "experiments" / "aster_4b.py").get_config()
    named = re.search(r"TPU (v5p-\d+)", (ROOT / "experiments" / "aster_4b.py").read_text("utf-8"))
    assert _devices(named[1]) == math.prod(c.mesh.values())


TEXTS = {page: (ROOT / page).read_text("utf-8") for page in documents.PAGES}
each_page = pytest.mark.parametrize("page", documents.PAGES, ids=lambda p: p.as_posix())


def _missing_paths(page: pathlib.Path) -> list[str]:
    """Files that commands, code and links of a page name and that are not there."""
    text, places = TEXTS[page], (ROOT, ROOT / "aster_jax", (ROOT / page).parent)
    made = [b for b in documents.blocks(text) if not _is_tree(b.text)]
    code = "\n".join([b.text for b in made] + re.findall(r"`([^`\n]+)`", documents.prose(text)))
    names = set(re.findall(r"(?<![\w./:$~-])((?:[\w.-]+/)+[\w.-]+\.(?:py|sh|ipynb|md|txt))", code))
    names = {n for n in names if "NAME" not in n and not n.startswith(LEFT_BEHIND)}
    missing = [n for n in names if not any((place / n).exists() for place in places)]
    for module in set(re.findall(r"python -m ((?:aster_jax|experiments|launch|docs)[\w.]*)", code)):
        parts = pathlib.Path(*module.split("."))
        if not (ROOT / parts.with_suffix(".py")).exists() and not (ROOT / parts).is_dir():
            missing.append(module)
    known = set(config.keys(config.default()))
    return missing + [
        f"--config.{k}" for k in re.findall(r"--config\.([\w.]+)=", code)
        if k not in known and not k.isupper()
    ]  # fmt: skip


# What runs and studies leave in their workdirs, by the beginning of a path.
LEFT_BEHIND = ("demos/curation", "runs/")


@each_page
def test_commands_and_code_name_what_exists(page):
    source_tree.check(_missing_paths(page))


@each_page
def test_links_lead_to_files_and_headings_that_are_there(page):
    wrong = []
    for target in documents.links(TEXTS[page]):
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        if not path.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and path.suffix == ".md":
            found = documents.anchors(path.read_text("utf-8"))
            if anchor not in found:
                wrong.append(f"{target}: there are {', '.join(sorted(found))}")
    source_tree.check(wrong)


def test_every_page_of_the_documents_can_be_found_from_the_readme():
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page not in seen and page.suffix == ".md" and page.exists():
            seen.add(page)
            text = page.read_text("utf-8")
            left += [(page.parent / t.partition("#")[0]).resolve() for t in documents.links(text)]
    source_tree.check([f"{p} is linked from nowhere" for p in documents.PAGES if ROOT / p not in seen])


def test_the_page_of_keys_is_the_one_that_the_code_makes():
    made = configuration.page()
    assert made == (ROOT / "docs" / "configuration.md").read_text("utf-8"), (
        "make it anew: python -m docs.configuration > docs/configuration.md"
    )
    named = set(re.findall(r"^\| `([\w.]+)` \|", made, re.M))
    shared = {f"{s}.{k}" for s in ("rl1", "rl2") for k in config.default().rl}
    twice = {f"rl2.{k}" for k in config.default().rl2}
    assert named == set(config.keys(config.default())) - shared - twice


def test_the_recipe_says_the_numbers_of_the_papers_run():
    c = _experiment(ROOT / "experiments" / "aster_4b.py").get_config()
    said = re.findall(r"`([a-z]\w*\.\w+)=([^`]+)`", TEXTS[pathlib.Path("docs/recipe.md")])
    assert len(said) > 40
    for key, value in said:
        section, _, name = key.partition(".")
        assert c[section][name] == ast.literal_eval(value), key


def _is_tree(block: str) -> bool:
    """Whether a block draws the tree: its first line is a folder, the next is indented."""
    lines = [line for line in block.splitlines() if line.strip()]
    return len(lines) > 1 and lines[0].split()[0].endswith("/") and lines[1].startswith(" ")


def _named_in_tree(block: str) -> list[pathlib.Path]:
    """Paths that a tree names. Indentation nests; files may follow their folder on its line."""
    stack, found = [(-1, pathlib.Path())], []
    for line in filter(str.strip, block.splitlines()):
        indent, words = len(line) - len(line.lstrip()), line.split()
        while stack[-1][0] >= indent:
            stack.pop()
        here = stack[-1][1] / words[0]
        found.append(here)
        if words[0].endswith("/"):
            stack.append((indent, here))
            found += [here / w for w in words[1:] if re.fullmatch(r"\w+\.(py|sh|md|ipynb)", w)]
    return found


def test_the_tree_in_the_readmes_is_true():
    trees = [b.text for t in TEXTS.values() for b in documents.blocks(t) if _is_tree(b.text)]
    everything = [p for b in trees for p in _named_in_tree(b)]
    source_tree.check([f"{p} is not there" for p in everything if not (ROOT / p).exists()])
    named = {p.parts[:2] for p in everything if len(p.parts) > 1}
    package = [p for p in source_tree.tracked() if p.parts[0] == "aster_jax"]
    parts = {p.parts[:2] for p in package}
    hidden = {("aster_jax", "__init__.py")}
    source_tree.check(sorted("/".join(p) for p in parts - named - hidden))


def test_the_sizes_that_contributors_are_told_are_those_that_are_held():
    text = TEXTS[pathlib.Path("CONTRIBUTING.md")]
    a = architecture_test
    assert f"A file has {a.LONGEST_FILE} lines at most" in text
    assert f"a function {a.LONGEST_FUNCTION} (a stage's `run` {a.LONGEST_RUN})" in text


def test_one_test_command_is_told_and_continuous_integration_runs_it():
    command = "python -m pytest -n 2\n"
    assert command in (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert command.removeprefix("python ") in (ROOT / ".ci" / "run").read_text("utf-8")
