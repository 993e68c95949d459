"""The chat as a person has it: in a terminal of its own, with keys, a paste, Ctrl-C and Ctrl-D."""

import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time

import pytest

from aster_jax import weights
from tests.rollout import chatter

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEFT, DELETE, CTRL_C, CTRL_D = "\x1b[D", "\x7f", "\x03", "\x04"
PASTE, PASTED = "\x1b[200~", "\x1b[201~"


class Terminal:
    """A command behind a pseudo terminal: what it has shown, and a keyboard."""

    def __init__(self, *command: str):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TERM": "xterm", "LANG": "C.UTF-8"}
        # Its own small process: a session with a terminal cannot be made between threads. What
        # runs in the background ignores SIGINT, and so would its children.
        spawn = (
            "import os, pty, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
            "sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", spawn, *command], cwd=ROOT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.shown = ""

    def type(self, text: str) -> None:
        """Keys."""
        os.write(self.process.stdin.fileno(), text.encode())

    def wait(self, text: str, limit_s: float = 120.0) -> str:
        """Until the text comes; what came up to there, which is then forgotten."""
        deadline, out = time.monotonic() + limit_s, self.process.stdout.fileno()
        while text not in self.shown:
            left_s = deadline - time.monotonic()
            assert left_s > 0 and select.select([out], [], [], left_s)[0], self.shown
            self.shown += os.read(out, 1 << 16).decode("utf-8", "replace")
        before, _, self.shown = self.shown.partition(text)
        return before

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = chatter.build(tmp_path_factory.mktemp("words"))
    out = tmp_path_factory.mktemp("model") / "talker"
    weights.export(made.params, made.cfg, made.tokenizer, out, "float32", style=chatter.STYLE)
    return out


@pytest.mark.slow
def test_a_conversation_in_a_terminal(model, tmp_path):
    terminal = Terminal(
        sys.executable, "-m", "aster_jax.chat", f"--model={model}", "--context_tokens=2048",
        "--response_tokens=80", "--max_calls=2",
    )  # fmt: skip
    try:
        terminal.wait("/help for help")
        terminal.wait("> ")
        terminal.type(CTRL_C)
        terminal.wait("Ctrl-D leaves")
        terminal.wait("> ")
        # Typed with a slip that is mended: the arrow key moves and does not end up in the text.
        terminal.type("What is 12*8?" + LEFT + DELETE + "7\r")
        terminal.wait("compiling")
        terminal.wait("tokens, ")
        terminal.wait("> ")
        # Three lines and what is no ASCII, pasted: one question, asked when Enter comes.
        terminal.type(f"{PASTE}What is 31+7?\näöü 日本\nAdd 5 and 6.{PASTED}")
        terminal.wait("Add 5 and 6.")
        terminal.type("\r")
        terminal.wait("tokens, ")
        terminal.wait("> ")
        terminal.type(f"/save {tmp_path / 'talk.json'}\r")
        terminal.wait("saved to")
        terminal.wait("> ")
        terminal.type("/reset\r")
        terminal.wait("forgotten")
        terminal.wait("> ")
        terminal.type(CTRL_D)
        assert terminal.process.wait(60) == 0
    finally:
        terminal.close()
    messages = json.loads((tmp_path / "talk.json").read_text())["messages"]
    asked = [m["content"] for m in messages if m["role"] == "user"]
    assert asked == ["What is 12*7?", "What is 31+7?\näöü 日本\nAdd 5 and 6."]


@pytest.mark.slow
def test_bytes_that_are_no_text_are_no_crash(model):
    done = subprocess.run(
        [sys.executable, "-m", "aster_jax.chat", f"--model={model}", "--response_tokens=20",
         "--no_tool"],
        cwd=ROOT, input=b"What is \xff\xfe?\n/quit\n", capture_output=True, timeout=240,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "LANG": "C.UTF-8", "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert b"Traceback" not in done.stderr and b"tokens, 0 calls" in done.stdout
