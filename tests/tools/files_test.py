"""What a session may not do to a file it can read, nor through a descriptor, tier by tier.

The hostile groups attack files that are out of reach. Here the file is lent, as the
libraries are, and belongs to the user who runs the tests: in tier B2 to the session as well.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from aster_jax.tools import config, landlock, zygote
from tests.tools import suite

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")

# Prints the attempts that were let through. Nothing is open for writing.
ATTACK = """
import fcntl, os, socket, struct
path, victim = {path!r}, {victim}
file = os.open(path, os.O_RDONLY)
r, w = os.pipe()
ends = socket.socketpair()
attempts = {{
    "chmod": lambda: os.chmod(path, 0), "fchmod": lambda: os.fchmod(file, 0),
    "chown": lambda: os.chown(path, os.getuid(), os.getgid()),
    "fchown": lambda: os.fchown(file, os.getuid(), os.getgid()),
    "utime": lambda: os.utime(path, (0, 0)), "futime": lambda: os.utime(file, (0, 0)),
    "setxattr": lambda: os.setxattr(file, "user.x", b"1"),
    "truncate": lambda: os.truncate(path, 0),
    "read-only O_TRUNC": lambda: os.open(path, os.O_RDONLY | os.O_TRUNC),
    "O_TRUNC without access": lambda: os.open(path, 3 | os.O_TRUNC),
    "FS_IOC_SETFLAGS": lambda: fcntl.ioctl(file, 0x40086602, struct.pack("i", 0x40)),
    "F_SETOWN": lambda: fcntl.fcntl(r, 8, victim),
    "F_SETOWN_EX": lambda: fcntl.fcntl(r, 15, struct.pack("ii", 1, victim)),
    "F_SETSIG": lambda: fcntl.fcntl(r, 10, 9),
    "FIOSETOWN": lambda: fcntl.ioctl(ends[0], 0x8901, struct.pack("i", victim)),
    "SIOCSPGRP": lambda: fcntl.ioctl(ends[0], 0x8902, struct.pack("i", victim)),
}}
passed = []
for name, attempt in attempts.items():
    try:
        attempt()
        passed.append(name)
    except OSError:
        pass
fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)
os.write(w, b"x")
passed
"""


@pytest.mark.parametrize("tier", config.SAFE_TIERS)
def test_a_lent_file_stays_as_it_is_and_nobody_is_signalled(tier):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # in B1 the session is another user
        lent = pathlib.Path(folder, "lent.txt")
        lent.write_text("lent")
        lent.chmod(0o644)
        before = suite.describe(lent)
        victim = subprocess.Popen(["/bin/sleep", "60"])
        try:
            with suite.start(tier, extra_paths=(folder,)) as tools:
                session = tools.open()
                assert tools.run(session, f"open({str(lent)!r}).read()").text == "lent\n"
                cell = ATTACK.format(path=str(lent), victim=victim.pid)
                assert tools.run(session, cell).text == "[]\n"
            assert suite.describe(lent) == before
            assert victim.poll() is None
        finally:
            victim.kill()
            victim.wait()


@pytest.mark.parametrize("tier", config.SAFE_TIERS)
def test_the_devices_are_the_same_in_every_tier(tier):
    code = (
        "import fcntl, os\nwith open('/dev/null', 'w') as sink: sink.write('x')\n"
        "found = []\nfor name in {names!r}:\n    try:\n        open(name, 'rb').close()\n"
        "        found.append(name)\n    except OSError:\n        pass\nfound"
    )
    five = ["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"]
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as shared:
        os.chmod(shared.name, 0o644)
        names = sorted([*five, shared.name, "/dev/ptmx", "/dev/tty"])
        with suite.start(tier) as tools:
            result = tools.run(tools.open(), code.format(names=names))
    assert result.text == f"{five}\n"


@pytest.mark.parametrize("tier", ["A1", "A2"])
def test_a_session_with_scratch_may_do_all_this_to_its_own_files(tier):
    code = (
        "import os\nopen('own', 'w').write('text')\nos.chmod('own', 0o640)\n"
        "os.utime('own', (0, 0))\nprint(os.stat('own').st_mtime)\nos.truncate('own', 0)\n"
        "oct(os.stat('own').st_mode), os.stat('own').st_size"
    )
    with suite.start(tier) as tools:
        assert tools.run(tools.open(), code).text == "0.0\n('0o100640', 0)\n"


def test_a_landlock_that_lets_files_be_emptied_is_too_old_for_the_users_own(monkeypatch):
    monkeypatch.setattr(landlock, "find_abi", lambda: 2)
    with pytest.raises(RuntimeError, match="ABI 2"):
        zygote.settle_layers("B2", ("/usr/lib",))
    for tier in ("A1", "A2", "B1"):
        layers, readable = zygote.settle_layers(tier, ("/usr/lib",))
        assert layers["landlock"] == "ABI 2" and readable == ("/usr/lib",)
