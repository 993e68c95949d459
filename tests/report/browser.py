"""A headless Chromium, driven over its own DevTools protocol through two pipes.

Nothing but the standard library: messages are JSON with a zero byte at the end. For the
tests of the page, its benchmark, and pictures of it.
"""

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")


def executable() -> str | None:
    """The browser on this machine, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in one browser; a context manager.

    `said` collects what the page complained of: exceptions, errors on the console, and
    refusals of its content security policy. `asked` collects the addresses it loaded.
    """

    def __init__(self, width: int = 1300, height: int = 900):
        self._size = width, height
        self.said: list[str] = []
        self.asked: list[str] = []

    def __enter__(self):
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        ours, theirs = os.pipe(), os.pipe()  # to the browser, from it
        ends = [os.dup(fd) for fd in (ours[0], theirs[1])]
        high = [_above(fd) for fd in ends]
        self._process = subprocess.Popen(
            [executable(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--remote-debugging-pipe", f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(3, 4), preexec_fn=lambda: [os.dup2(fd, 3 + i) for i, fd in enumerate(high)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for fd in (ours[0], theirs[1], *ends, *high):
            os.close(fd)
        self._out, self._in = ours[1], theirs[0]
        self._number, self._rest, self._session = 0, b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        # Else it is a page in the background, which is never drawn and sees no scrolling.
        self.call("Page.bringToFront")
        self.resize(*self._size)
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, timeout_s: float = 120.0, **params) -> dict:
        """One command of the protocol, and what it gives back."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        deadline = time.monotonic() + timeout_s
        while True:
            got = self._message(deadline)
            if got.get("id") == self._number:
                if "error" in got:
                    raise RuntimeError(f"{method}: {got['error']}")
                return got["result"]
            self._note(got)

    def _message(self, deadline) -> dict:
        while b"\0" not in self._rest:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._in], [], [], left_s)[0]:
                raise TimeoutError("the browser does not answer")
            self._rest += os.read(self._in, 1 << 20)
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.said.append(json.dumps(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    def processor_s(self) -> float:
        """Processor seconds of the browser so far, all its processes and threads."""
        parents, spent = {}, {}
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                name, rest = stat.read_text().rsplit(")", 1)
            except OSError:
                continue  # it ended meanwhile
            fields = rest.split()
            number = int(name.split(" ", 1)[0])
            parents[number] = int(fields[1])
            spent[number] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        def is_ours(number):
            while number in parents and number != self._process.pid:
                number = parents[number]
            return number == self._process.pid

        return sum(seconds for number, seconds in spent.items() if is_ours(number))

    def resize(self, width: int, height: int) -> None:
        """The window, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip

    def dark(self, is_dark: bool) -> None:
        """What the system prefers."""
        value = "dark" if is_dark else "light"
        self.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}]
        )

    def open(self, path: pathlib.Path, address: str = "", ready: bool = True) -> None:
        """A file, with what follows its name; waits until the page says it is ready."""
        # From nowhere, so that another address of the same file is loaded anew.
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.resolve().as_uri() + address)
        if ready:
            self.wait("document.documentElement?.dataset.ready === 'yes'")

    def value(self, script: str):
        """An expression's value in the page, awaited if it is a promise."""
        got = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in got:
            raise RuntimeError(f"{script}: {got['exceptionDetails']}")
        return got["result"].get("value")

    def wait(self, script: str, timeout_s: float = 60.0):
        """Until the expression is true; its value."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.value(script)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never came true: {script}; the page said {self.said}")
            time.sleep(0.02)
        return found

    def key(self, name: str) -> None:
        """Press a key: a character, or Enter, Escape, ArrowDown."""
        text = {"text": name} if len(name) == 1 else {"text": "\r"} if name == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=name, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name)

    def fill(self, name: str, value: str) -> None:
        """Give a filter a value, as somebody who types or chooses would."""
        self.value(
            f"(() => {{ const field = document.querySelector('#filters [name={name}]');"
            f"field.value = {json.dumps(value)};"
            "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def picture(self, path: pathlib.Path) -> None:
        """The window as PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


def _above(fd: int) -> int:
    """The same end of a pipe under a number that no standard stream or pipe of ours has."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD, 20)
