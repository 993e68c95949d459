"""`hf://ORG/NAME` against a hub on this machine: whole, pinned, cut off, damaged, missing."""

import hashlib
import http.server
import json
import sys
import threading
import urllib.parse

import pytest

from aster_jax import weights
from aster_jax.weights import fetch
from tests.weights import made

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (extra: hub)")

COMMIT = "c0ffee" + "0" * 34
OLDER = "01d" + "d" * 37
NAME = "someone/small-model"
# What the hub calls a commit: its branches, tags and pull requests, and the hash itself.
REVISIONS = {"main": COMMIT, "v1.0": OLDER, "refs/pr/3": OLDER, OLDER: OLDER, OLDER[:8]: OLDER}


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks about one repository; `server` holds the settings.

    `files` maps names to contents. A file in `cut` loses its connection after that many
    bytes of every answer; one in `damaged` is sent with its last byte changed.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = urllib.parse.unquote(self.path.split("?")[0])
        asked = path.removeprefix(f"/api/models/{NAME}/revision/")
        commit = OLDER if OLDER in path else COMMIT
        files = self.server.older if commit == OLDER else self.server.files
        if asked in REVISIONS:
            commit = REVISIONS[asked]
            files = self.server.older if commit == OLDER else self.server.files
            siblings = [{"rfilename": f} for f in files]
            return self.send(json.dumps({"id": NAME, "sha": commit, "siblings": siblings}), body)
        if path == f"/api/models/{NAME}/tree/{commit}":
            tree = [{"type": "file", "path": f, "size": len(c), "oid": git_sha1(c)}
                    | ({"lfs": {"oid": sha256(c), "size": len(c), "pointerSize": 130}}
                       if large(f) else {})
                    for f, c in files.items()]  # fmt: skip
            return self.send(json.dumps(tree), body)
        name = path.removeprefix(f"/{NAME}/resolve/{commit}/")
        if name in files:
            return self.send_file(name, files[name], body, commit)
        return self.send("{}", body, 404, {"X-Error-Code": "RepoNotFound"})

    def send_file(self, name, content, body, commit):
        etag = sha256(content) if large(name) else git_sha1(content)
        start = 0
        if "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        if body:
            self.server.asked.append((name, start))
        if name in self.server.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        about = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if start:
            about["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        shown = rest[: self.server.cut[name]] if name in self.server.cut else rest
        self.send(rest, body, 206 if start else 200, about, shown)

    def send(self, content, body, status=200, about=None, shown=None):
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for key, value in (about or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            shown = content if shown is None else shown
            self.wfile.write(shown)
            self.close_connection = len(shown) < len(content)


def large(name):
    return name.endswith(".safetensors")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def forget_hub():
    for name in [m for m in sys.modules if m.split(".")[0] == "huggingface_hub"]:
        del sys.modules[name]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has one small model in several files, and an empty cache."""
    folder, params = made.hf_directory(tmp_path / "model", max_file_bytes=30_000)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files = {f.name: f.read_bytes() for f in sorted(folder.iterdir())}
    older, server.older_params = made.hf_directory(tmp_path / "older", made.LLAMA, seed=1)
    server.older = {f.name: f.read_bytes() for f in sorted(older.iterdir())}
    server.cut, server.damaged, server.asked, server.params = {}, set(), [], params
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("ASTER_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    before = {m: v for m, v in sys.modules.items() if m.split(".")[0] == "huggingface_hub"}
    forget_hub()  # it reads the environment when it is imported
    yield server
    forget_hub()
    sys.modules.update(before)
    server.shutdown()
    server.server_close()


def test_a_revision_is_pinned_and_told(hub):
    assert weights.revision(f"hf://{NAME}") == weights.revision(f"hf://{NAME}@v1.0") == ""
    made.assert_same(weights.load(f"hf://{NAME}").params, hub.params)
    assert weights.revision(f"hf://{NAME}") == COMMIT
    for name in ("v1.0", "refs/pr/3", OLDER, OLDER[:8]):
        m = weights.load(f"hf://{NAME}@{name}")
        made.assert_same(m.params, hub.older_params)
        assert weights.revision(f"hf://{NAME}@{name}") == weights.revision(m.path) == OLDER
    # What main was when it was fetched, whatever the hub says of it by now.
    assert weights.revision(f"hf://{NAME}@main") == weights.revision(f"hf://{NAME}") == COMMIT
    with pytest.raises(OSError, match=f"hf://{NAME}@v2 could not be fetched"):
        weights.load(f"hf://{NAME}@v2")
    assert weights.revision(f"hf://{NAME}@v2") == ""


def test_a_snapshots_links_may_lead_to_its_blobs_and_no_further(hub, tmp_path):
    path = weights.describe(f"hf://{NAME}").path
    shard = path / SHARD
    assert shard.is_symlink() and path.name == COMMIT
    outside = tmp_path / "shard"
    outside.write_bytes(shard.read_bytes())
    shard.unlink()
    shard.symlink_to(outside)
    with pytest.raises(ValueError, match=f"{SHARD} is a link to .*, outside"):
        weights.load(path)


SHARD = "model-00002-of-00006.safetensors"


def test_loads_and_then_needs_no_file_again(hub):
    m = weights.load(f"hf://{NAME}")
    made.assert_same(m.params, hub.params)
    assert m.config == made.QWEN and SHARD in hub.files
    assert {name for name, _ in hub.asked} == set(hub.files)
    hub.asked.clear()
    made.assert_same(weights.load(f"hf://{NAME}").params, hub.params)
    assert hub.asked == []


def test_a_cut_connection_is_resumed(hub, monkeypatch):
    # What is written at once; a cut within the first 10 MB would start again at 0.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    half = len(hub.files[SHARD]) // 2
    hub.cut[SHARD] = half
    made.assert_same(weights.load(f"hf://{NAME}").params, hub.params)
    assert (SHARD, 0) in hub.asked and any(name == SHARD and start > 0 for name, start in hub.asked)


def test_an_interrupted_download_is_an_error_and_continues_next_time(hub):
    hub.cut[SHARD] = 0
    with pytest.raises(OSError, match=f"hf://{NAME} could not be fetched.*so try again"):
        weights.load(f"hf://{NAME}")
    whole = {name for name, _ in hub.asked} - {SHARD}
    hub.asked.clear()
    del hub.cut[SHARD]
    made.assert_same(weights.load(f"hf://{NAME}").params, hub.params)
    assert {name for name, _ in hub.asked}.isdisjoint(whole)


@pytest.mark.parametrize("name", [SHARD, "config.json"])
def test_a_damaged_file_is_named_removed_and_fetched_again(hub, name):
    hub.damaged.add(name)
    with pytest.raises(ValueError, match=f"{name} of hf://{NAME} has hash .* the hub says"):
        weights.load(f"hf://{NAME}")
    hub.damaged.clear()
    made.assert_same(weights.load(f"hf://{NAME}").params, hub.params)


@pytest.mark.parametrize("name", [SHARD, "config.json"])
def test_a_file_that_the_hub_lacks_is_named(hub, name):
    del hub.files[name]
    with pytest.raises(ValueError, match=f"{name} does not exist"):
        weights.load(f"hf://{NAME}")


def test_unknown_names_are_named(hub):
    with pytest.raises(OSError, match="hf://someone/else could not be fetched"):
        weights.load("hf://someone/else")
    with pytest.raises(ValueError, match="write hf://ORG/NAME"):
        weights.load("hf://a/b/c")
    for name in ("", "../x", "a b", "/x", "a/../../b"):
        with pytest.raises(ValueError, match="is no branch, tag or commit"):
            weights.load(f"hf://{NAME}@{name}")


@pytest.mark.slow  # huggingface_hub tries again for 20 s
def test_an_absent_hub_is_named(hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(OSError, match=f"hf://{NAME} could not be fetched"):
        fetch.from_hub(NAME)
