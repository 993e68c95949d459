"""What a cell can learn of this machine and of this project, and chance from the seed."""

import os
import pathlib
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile

import pytest

from aster_jax.tools import channel, config, result, zygote
from tests.tools import suite

SAFE = pytest.mark.parametrize("tier", config.SAFE_TIERS)
# Everything by which paths and names were once found, as one text.
SEARCH = """
import faulthandler, json, os, platform, socket, sys, sysconfig, traceback
found = [os.uname(), socket.gethostname(), platform.node(), platform.uname(), sys.argv, sys.path,
         sys.orig_argv, sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix, os.environ,
         sysconfig.get_paths(), json.__file__, os.getcwd()]
frame = sys._getframe()
while frame is not None:
    found += [frame.f_code.co_filename, frame.f_locals, frame.f_code.co_consts]
    found += [value for name, value in frame.f_globals.items() if name.startswith('__')]
    frame = frame.f_back
found += [getattr(module, '__file__', '') for module in list(sys.modules.values())]
print(*map(repr, found), sep='\\n')
faulthandler.dump_traceback(2)
class Late:
    def __del__(self): raise ValueError('late')
late = Late()
del late
json.loads('{')
"""
DRAW = """
import os, random, secrets, tempfile, uuid
import numpy as np
print(uuid.uuid4(), os.urandom(5), os.getrandom(5), secrets.token_hex(5), random.random(),
      random.Random().random(), random.SystemRandom().random(), np.random.rand(),
      np.random.default_rng().random(), np.random.RandomState().rand(),
      next(tempfile._get_candidate_names()))
random.seed(); np.random.seed(); print(random.random(), np.random.rand())
"""


@SAFE
def test_neither_the_hosts_name_nor_its_paths_are_told(tier):
    secrets = {str(channel.ROOT), sys.prefix, sys.base_prefix, sysconfig.get_paths()["purelib"],
               sysconfig.get_paths()["stdlib"]}
    secrets = {path for path in secrets if not path.startswith(("/usr/lib", "/usr/local"))}
    with suite.start(tier, output_head_bytes=1 << 16, output_tail_bytes=1 << 16) as tools:
        outcome = tools.run(tools.open(), SEARCH)
        assert outcome.status == "error" and "JSONDecodeError" in outcome.text
        for text in (outcome.text, outcome.stdout, outcome.stderr, outcome.error_message):
            assert [path for path in secrets - {"/usr"} if path in text] == []
        host = platform.node()
        assert f"'{host}'" not in outcome.text and "sandbox" in outcome.text
        native = ("import ctypes\nlibc = ctypes.CDLL(None)\nb = ctypes.create_string_buffer(99)\n"
                  "libc.gethostname(b, 99)\nb.value")
        assert host not in tools.run(tools.open(), native).text
        assert socket.gethostname() == host


@SAFE
def test_all_chance_follows_the_seed(tier):
    texts = []
    with suite.start(tier, preload=("numpy",)) as tools:
        for seed in (3, 3, 4):
            session = tools.open(seed=seed)
            texts.append(tools.run(session, DRAW).text)
            assert "Traceback" not in texts[-1]
    assert texts[0] == texts[1]
    assert not set(texts[0].split()) & set(texts[2].split())


@SAFE
def test_an_installed_project_is_no_library_of_a_cell(tier, monkeypatch):
    """As after `pip install .`: a copy of the package beside the libraries that are lent."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        packages = pathlib.Path(folder, "site-packages")
        shutil.copytree(pathlib.Path(channel.ROOT, "aster_jax"), packages / "aster_jax")
        (packages / "aster_jax-0.1.dist-info").mkdir()
        (packages / "aster_jax-0.1.dist-info" / "RECORD").write_text("secret")
        (packages / "innocent.py").write_text("x = 7")
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        lent = [*channel.find_libraries(), str(packages)]
        monkeypatch.setattr(channel, "find_libraries", lambda: lent)
        with suite.start(tier) as tools:
            session = tools.open()
            assert tools.run(session, "import innocent; innocent.x").text == "7\n"
            for cell in ("from aster_jax.demos import families", "import aster_jax.tools.frames",
                         f"open({str(packages / 'aster_jax' / 'config.py')!r}).read()",
                         f"open({str(packages)!r} + '/aster_jax-0.1.dist-info/RECORD').read()"):
                assert tools.run(session, cell).status in ("error", "denied"), cell
            assert tools.run(tools.open(), "6 * 7").text == "42\n"
        with suite.start(tier, extra_paths=(str(packages),)) as tools:
            assert tools.run(tools.open(), "import aster_jax.errors; 7").text == "7\n"


def test_what_is_left_readable_when_something_inside_is_hidden(tmp_path):
    for name in ("a", "b", "inner/c", "inner/project"):
        (tmp_path / name).mkdir(parents=True)
    kept = zygote.split(["/elsewhere", str(tmp_path)], [str(tmp_path / "inner/project")])
    assert sorted(kept) == sorted(
        ["/elsewhere", *(str(tmp_path / name) for name in ("a", "b", "inner/c"))])


def test_a_veil_covers_whole_paths_only():
    veil = result.Veil(["/srv/env/lib/python3.11", "/srv/env/lib/python3.11/site-packages"], "/srv/it")
    hidden = veil.hide("at /srv/env/lib/python3.11/site-packages/x.py, '/srv/it/aster_jax/tools/a.py'")
    assert hidden == "at /lib/packages/x.py, '/lib/tool/a.py'"
    assert veil.hide("a/srv/it b/srv/item /srv/its 6/srv") == "a/srv/it b/srv/item /srv/its 6/srv"
