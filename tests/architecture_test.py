"""The house rules, read off the source: layers, purity, sizes, names, errors.

Nothing here runs the package; each test lists what breaks its rule.
"""

import ast
import re

from tests import source_tree

# From the bottom up. A module may import what stands below it, or beside it in its own
# package. The longest matching name decides where a module stands.
LAYERS = (
    ("errors",),
    ("together",),
    ("types", "tools", "train.metrics"),
    ("model", "data", "reward"),
    ("mesh", "demos", "eval.passk"),
    ("weights", "train", "rollout", "sft", "rl", "eval"),
    ("report",),
    ("settings", "interchange"),
    ("config", "naming", "track", "pace"),
    ("config_check", "experiment"),
    ("usage", "huge_pages"),
    ("lifetime",),
    ("workdir",),
    ("pools",),
    ("policy",),
    ("rollout.phase", "demos.episodes"),
    ("rl.play", "rl.progress", "rl.update", "rl.validate"),
    ("eval.arms", "eval.episodes", "eval.results"),
    ("demos.sources",),
    ("demos.run", "sft.run", "rl.run", "rl.filter", "eval.run", "report.run"),
    ("named",),
    ("export", "chat", "serve", "report.__main__"),
    ("studies",),
    ("main",),
    ("command", "member"),
)
JIT = {"train/step.py", "rollout/engine.py", "model/logprobs.py"}
# Besides the `run.py` of a stage, main.py, and the tool executor, which is all about the
# operating system: who may read the clock, print, and write files, and why.
EFFECTS = {
    "workdir.py": "speaks for a run and keeps its directory",
    "lifetime/hosts.py": "starts the processes of a run and ends them together",
    "lifetime/lock.py": "holds a file with a heartbeat",
    "lifetime/notice.py": "ends the process",
    "lifetime/provenance.py": "notes when a run was started",
    "lifetime/watch.py": "ends the process, and says why",
    "demos/convert.py": "is a command",
    "demos/endpoint.py": "waits for a server",
    "demos/ledger.py": "keeps what was paid for",
    "rl/update.py": "measures the parts of a step",
    "rollout/phase.py": "measures and bounds the wait for verdicts",
    "command.py": "is a command",
    "export.py": "is a command",
    "member.py": "ends with its parent",
    "studies/beside.py": "starts the members of a study, and waits for them",
    "track.py": "tells trackers, and writes event files",
    "chat/__main__.py": "is a command: talks with a terminal, and saves what was said",
    "serve/__main__.py": "is a command",
    "serve/app.py": "says when an answer was made; holds the rate of requests",
    "report/__main__.py": "is a command",
    "train/metrics.py": "writes metrics.jsonl",
    "train/checkpoint.py": "writes checkpoints",
    "rollout/episode.py": "holds deadlines",
    "rollout/journal.py": "keeps a phase's episodes as they end",
    "rl/filter.py": "is a stage of its own",
    "data/tokenizer.py": "saves a vocabulary",
    "weights/export.py": "saves weights",
    "weights/fetch.py": "downloads weights",
}
# Who may know that a config is an ml_collections one.
CONFIG_READERS = (
    "config.py", "config_check.py", "settings.py", "main.py", "workdir.py", "lifetime/changes.py",
    "experiment.py", "studies/plan.py",
)  # fmt: skip
FORBIDDEN_FILES = {"utils", "util", "common", "helpers", "manager", "factory", "registry", "base"}
FORBIDDEN_WORDS = FORBIDDEN_FILES - {"base"}  # "base" is also a checkpoint's name
# Wiring, and processes that only run as a whole: the test that runs them.
TESTED_WHOLE = {
    "demos/convert.py": "demos/tables_test.py",
    "errors.py": "main_test.py",
    "export.py": "one_workdir_test.py",
    "named.py": "chat/talk_test.py",
    "serve/": "serve/server_test.py",
    "main.py": "pipeline_smoke_test.py",
    "policy.py": "pipeline_smoke_test.py",
    "pools.py": "pipeline_smoke_test.py",
    "rollout/phase.py": "pipeline_smoke_test.py",
    "types.py": "pipeline_smoke_test.py",
    "tools/": "tools/executor_test.py",
    "reward/warm.py": "reward/verify_test.py",
}
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_RUN = 400, 60, 90


def _module(path: str) -> str:
    """`rl/run.py` -> `rl.run`; a package stands for its `__init__.py`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _own_imports(path: str, tree: ast.Module) -> set[str]:
    """Modules of the package that a file imports, relative to the package."""
    known = {_module(p) for p in source_tree.parsed("aster_jax")}
    found = set()
    for name in source_tree.imports(tree):
        if not name.startswith("aster_jax."):
            continue
        name = name.removeprefix("aster_jax.")
        found.add(name if name in known else name.rpartition(".")[0])
    return found - {_module(path), ""}


def _layer(module: str) -> int:
    """The number of a module's layer; -1 when nobody gave it one."""
    best, layer = "", -1
    for i, names in enumerate(LAYERS):
        for name in names:
            if (module == name or module.startswith(name + ".")) and len(name) > len(best):
                best, layer = name, i
    return layer


def test_imports_point_down():
    wrong = []
    for path, tree in source_tree.parsed("aster_jax").items():
        module = _module(path)
        if path == "__init__.py":
            wrong += [f"{path} imports {n}: it must stay empty" for n in source_tree.imports(tree)]
            continue
        if _layer(module) < 0:
            wrong.append(f"{module} has no layer; add it to LAYERS")
        for name in _own_imports(path, tree):
            inside = name.split(".")[0] == module.split(".")[0]
            if _layer(name) > _layer(module) or (_layer(name) == _layer(module) and not inside):
                wrong.append(f"{module} (layer {_layer(module)}) imports {name} ({_layer(name)})")
    source_tree.check(wrong)


def test_imports_make_no_circle():
    graph = {_module(p): _own_imports(p, t) for p, t in source_tree.parsed("aster_jax").items()}
    done: set[str] = set()
    circles = []

    def visit(module, above):
        if module in above:
            circles.append(" -> ".join([*above[above.index(module) :], module]))
        elif module not in done:
            for name in sorted(graph[module] if module in graph else ()):
                visit(name, [*above, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    assert circles == []


def test_the_tool_executor_stands_alone():
    wrong = []
    for path, tree in source_tree.parsed("aster_jax").items():
        if not path.startswith("tools/"):
            continue
        for name in source_tree.imports(tree):
            top = name.split(".")[0]
            if top in ("jax", "jaxlib", "flax", "numpy"):
                wrong.append(f"{path} imports {name}")
            if top == "aster_jax" and not name.startswith("aster_jax.tools"):
                wrong.append(f"{path} imports {name}")
    source_tree.check(wrong)


def test_flax_linen_stays_in_the_model():
    sources = source_tree.parsed("aster_jax").items()
    users = {path for path, tree in sources if "flax.linen" in source_tree.imports(tree)}
    assert all(p.startswith("model/") for p in users), users
    assert len(users) <= 3, users


def test_jit_stands_in_three_files():
    wrong = []
    for path, tree in source_tree.parsed("aster_jax").items():
        for node in ast.walk(tree):
            named = isinstance(node, ast.Attribute) and node.attr in ("jit", "pjit", "pmap")
            if named and path not in JIT and ast.unparse(node.value) in ("jax", "nn", "pjit"):
                wrong.append(f"{path}:{node.lineno} {ast.unparse(node)}")
        direct = {"jax.jit", "jax.pmap"} & set(source_tree.imports(tree))
        wrong += [f"{path} imports {n}" for n in direct]
    source_tree.check(wrong)


def _effects(tree):
    """Places where a file reads the clock, prints, logs, or writes to disk."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        attr = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        clock = re.fullmatch(r"time\.(time|monotonic|perf_counter|process_time|sleep)(_ns)?", name)
        writes = attr in ("write_text", "write_bytes", "mkdir") or name in (
            "json.dump", "os.replace", "os.makedirs", "np.save", "np.savez",
        )  # fmt: skip
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        opens = name == "open" and any(isinstance(m, str) and set("wax") & set(m) for m in modes)
        speaks = name in ("logging.basicConfig", "logging.info", "logging.warning", "logging.error")
        if clock or writes or opens or name == "print" or speaks:
            yield f"{node.lineno} {name}"


def test_effects_stay_in_their_places():
    wrong = []
    for path, tree in source_tree.parsed("aster_jax").items():
        allowed = path.startswith("tools/") or path in EFFECTS
        if not (allowed or path == "main.py" or path.endswith("/run.py")):
            wrong += [f"{path}:{where}" for where in _effects(tree)]
    source_tree.check(wrong)
    assert [p for p in EFFECTS if p not in source_tree.parsed("aster_jax")] == []


def test_randomness_and_config_come_from_outside():
    wrong = []
    for path, tree in source_tree.parsed("aster_jax").items():
        if path not in CONFIG_READERS:
            found = source_tree.imports(tree)
            wrong += [f"{path} imports {n}" for n in found if "ml_collections" in n]
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of = ast.unparse(node.func.value)
            if node.func.attr == "get" and re.search(r"(^|\.)(c|config)(\.|$)", of):
                wrong.append(f"{path}:{node.lineno} {of}.get hides a default")
            if of == "np.random" and node.func.attr in ("seed", "random", "shuffle", "permutation"):
                wrong.append(f"{path}:{node.lineno} draws from global randomness")
    source_tree.check(wrong)


def test_errors_are_not_swallowed():
    wrong = []
    for path, tree in source_tree.parsed("aster_jax").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{path}:{node.lineno} bare except")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
                wrong.append(f"{path}:{node.lineno} warns instead of deciding")
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                wrong.append(f"{path}:{node.lineno} imports from __future__")
            if isinstance(node, ast.ImportFrom) and node.level:
                wrong.append(f"{path}:{node.lineno} imports relatively")
    source_tree.check(wrong)


def test_sizes():
    wrong = []
    for folder in ("aster_jax", "experiments", "tests"):
        for path, tree in source_tree.parsed(folder).items():
            lines = (source_tree.ROOT / folder / path).read_text("utf-8").count("\n")
            if lines > LONGEST_FILE:
                wrong.append(f"{folder}/{path}: {lines} lines")
            for f in source_tree.functions(tree):
                length = f.end_lineno - f.lineno + 1
                is_run = path.endswith("run.py") and f.name == "run"
                if folder == "aster_jax" and length > (LONGEST_RUN if is_run else LONGEST_FUNCTION):
                    wrong.append(f"{folder}/{path}:{f.lineno} {f.name}: {length} lines")
    source_tree.check(wrong)


def test_docstrings():
    wrong = []
    for path, tree in source_tree.parsed("aster_jax").items():
        if tree.body and ast.get_docstring(tree) is None:
            wrong.append(f"{path}: module")
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            members = node.body if isinstance(node, ast.ClassDef) else []
            for f in (node, *members):
                public = isinstance(f, ast.FunctionDef | ast.ClassDef) and f.name[0] != "_"
                if public and ast.get_docstring(f) is None:
                    wrong.append(f"{path}:{f.lineno} {f.name}")
    source_tree.check(wrong)


def test_names_say_what_is_there():
    wrong = [
        str(p) for p in source_tree.tracked()
        if FORBIDDEN_FILES & {part.split(".")[0] for part in p.parts}
    ]  # fmt: skip
    for path, tree in source_tree.parsed("aster_jax").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                words = re.findall(r"[A-Z]?[a-z]+", node.name)
                if FORBIDDEN_WORDS & {w.lower() for w in words}:
                    wrong.append(f"{path}:{node.lineno} {node.name}")
    source_tree.check(wrong)


def test_no_inheritance():
    # The last two are how the standard library wants C structures and streams described.
    allowed = {"nn.Module", "Protocol", "NamedTuple", "ctypes.Structure", "io.RawIOBase"}
    wrong = []
    for path, tree in source_tree.parsed("aster_jax").items():
        for node in ast.walk(tree):
            for parent in node.bases if isinstance(node, ast.ClassDef) else ():
                name = ast.unparse(parent)
                if name not in allowed and not name.endswith(("Exception", "Error")):
                    wrong.append(f"{path}:{node.lineno} {node.name}({name})")
    source_tree.check(wrong)


def test_nothing_is_unfinished_and_nothing_speaks_of_elsewhere():
    # Written in pieces, so that this file does not find itself.
    unfinished = "|".join(("TO" "DO", "FIX" "ME", "XX" "X", "NotImplemented" "Error", "x" "fail"))
    machines = r"(?<![\w.])/(?:wo" r"rk|fa" r"rm|ro" r"ot|ho" r"me)/"
    makers = r"\b(?:clau" r"de|anthro" r"pic|chat" r"gpt|co" r"pilot)\b|iss" r"ue #?\d"
    pattern = re.compile(f"\\b(?:{unfinished})\\b|{machines}|(?i:{makers})")
    wrong = []
    for path in source_tree.tracked():
        data = (source_tree.ROOT / path).read_bytes()
        if b"\0" in data[:4096]:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
            if pattern.search(line):
                wrong.append(f"{path}:{number} {line.strip()[:80]}")
    source_tree.check(wrong)


def test_every_module_has_its_test():
    """A test file of its own name, or one in the same folder that imports it."""
    tests = source_tree.parsed("tests")
    imported = {
        (path.rpartition("/")[0], name)
        for path, tree in tests.items()
        for name in source_tree.imports(tree)
    }
    wrong = [f"{p} is missing" for p in set(TESTED_WHOLE.values()) if p not in tests]
    for path in source_tree.parsed("aster_jax"):
        beside = (path.rpartition("/")[0], "aster_jax." + _module(path)) in imported
        own = path.removesuffix(".py") + "_test.py"
        if not (beside or own in tests or _tested_whole(path)):
            wrong.append(f"{path}: no tests/{own} and no test beside it imports it")
    source_tree.check(wrong)


def _tested_whole(path: str) -> bool:
    wiring = path.endswith(("/run.py", "__init__.py", "__main__.py"))
    return wiring or any(path.startswith(name) for name in TESTED_WHOLE)
