"""The same piece of Python as several processes that find each other; for several tests."""

import os
import socket
import subprocess
import sys


def free_address() -> str:
    """HOST:PORT that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def play(code: str, *arguments: str, count: int, devices: int = 1) -> list[tuple[int, str, str]]:
    """Run `code` as `count` processes with `devices` virtual ones each; sys.argv is the
    coordinator's address, the process's index, and `arguments`. Each one's exit code, stdout
    and stderr."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    address = free_address()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, address, str(i), *arguments], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(count)
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]
