"""The zygote: loads the libraries once, isolated, and forks a session per order.

It is exec'd with an empty environment, enters its private root before it imports anything
large, stays single-threaded, and freezes its heap so that a collection in a session does
not copy it. It never runs model-written code itself and knows no secret.
"""

import builtins
import gc
import importlib
import json
import os
import platform
import signal
import socket
import sys
import threading

from aster_jax.tools import (
    cell, config, confine, landlock, linux, namespaces, seccomp, session, stub,
)


MESSAGE_BYTES = 1 << 18


class Control:
    """The zygote's end of the control socket: one JSON object and descriptors a message."""

    def __init__(self, descriptor: int):
        self.socket = socket.socket(fileno=descriptor)

    def send(self, message: dict, descriptors: tuple[int, ...] = ()) -> None:
        """Sends one message with descriptors attached; ends with the supervisor."""
        try:
            socket.send_fds(self.socket, [json.dumps(message).encode()], descriptors)
        except (BrokenPipeError, ConnectionResetError):  # the supervisor is gone
            os._exit(0)

    def receive(self) -> tuple[dict | None, list[int]]:
        """The next message, or None when the supervisor is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.socket, MESSAGE_BYTES, 8)
        except ConnectionResetError:  # it died with messages of ours unread
            return None, []
        return (json.loads(data) if data else None), descriptors


def main(descriptor: int) -> None:
    """Runs a zygote on the control socket `descriptor` until the supervisor goes away."""
    if linux.IS_LINUX:
        linux.set_process(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    control = Control(descriptor)
    settings, _ = control.receive()
    if settings is None:
        return
    tier = settings["tier"]
    try:
        readable = isolate(tier, settings, control)
        layers, readable = settle_layers(tier, readable)
        if tier == "B1":
            check_readable_after_drop(settings)
        versions = preload(settings)
    except (OSError, ImportError, RuntimeError) as error:
        control.send({"op": "failed", "error": f"{type(error).__name__}: {error}"})
        return
    ready = {"op": "ready", "tier": tier, "versions": versions, "layers": layers}
    if linux.IS_LINUX:
        control.send(ready, (os.pidfd_open(os.getpid()),))
    else:
        control.send(ready)
    Nursery(control, settings, tier, readable).run()


def isolate(tier: str, settings: dict, control: Control) -> tuple[str, ...]:
    """Enters the tier's namespaces; returns the directories sessions may read.

    In A tiers this process stays outside as the parent of the returned-into child.
    """
    libraries = tuple(settings["libraries"]) + tuple(settings["extra_paths"])
    settings["scratch"] = namespaces.choose_scratch(libraries)
    if tier == "A1":
        linux.unshare(namespaces.APART)
        namespaces.build_root(libraries)
        linux.unshare(linux.CLONE_NEWUSER)
    elif tier == "A2":
        linux.unshare(linux.CLONE_NEWUSER | namespaces.APART)
    if tier in confine.IN_NAMESPACES:
        control.send({"op": "map", "whole": tier == "A1"})
        reply, _ = control.receive()
        if reply is None or reply["op"] != "mapped":
            raise OSError(f"identity map refused: {reply}")
        if tier == "A1":
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        else:
            namespaces.build_root(libraries)
        become_first_process(control)
        return ("/",)  # the root holds nothing but libraries
    # Not all of /dev: below it lie other programs' memory, terminals and accelerators.
    return (*namespaces.SYSTEM, *libraries, *namespaces.DEVICES)


def settle_layers(tier: str, readable: tuple[str, ...]) -> tuple[dict, tuple[str, ...] | None]:
    """(state of each layer, what Landlock leaves readable or None without Landlock).

    In A tiers the private root already hides everything, and an old kernel may lack the
    second lock; in B tiers Landlock is the lock, and its absence is an OSError. One that
    lets files be emptied is a RuntimeError in B2: they would be this user's, while a uid of
    B1 owns none.
    """
    layers = dict.fromkeys(("root", "network", "processes"), tier in confine.IN_NAMESPACES)
    layers |= {"own_uid": tier in confine.OWN_UID, "seccomp": tier != "D", "landlock": False}
    if tier in config.SAFE_TIERS:
        try:
            abi = landlock.find_abi()
        except OSError as error:
            if tier in confine.BEHIND_LANDLOCK:
                raise
            layers["landlock"] = f"unavailable: {error}"
            return layers, None
        if tier == "B2" and abi < landlock.TRUNCATE_ABI:
            raise RuntimeError(
                f"Landlock here has ABI {abi}, which does not stop a file of this user from "
                f"being emptied; ABI {landlock.TRUNCATE_ABI} does (kernel 6.2)"
            )
        layers["landlock"] = f"ABI {abi}"
    return layers, readable


def become_first_process(control: Control) -> None:
    """Continues as process 1 of a new PID namespace; the old process waits and follows."""
    linux.unshare(linux.CLONE_NEWPID)
    child = os.fork()
    # Set here once more: every change of identity above has cleared it.
    linux.set_process(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if child:
        control.socket.close()
        os.waitpid(child, 0)
        os._exit(0)


def check_readable_after_drop(settings: dict) -> None:
    """Raises RuntimeError if another user cannot read the Python prefix (a 0700 home)."""
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(settings["uid_first"], settings["uid_first"], settings["uid_first"])
            for path in settings["libraries"]:
                os.listdir(path) if os.path.isdir(path) else os.stat(path)
            os._exit(0)
        except OSError:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the Python libraries are not readable for another uid")


def preload(settings: dict) -> dict:
    """Imports what sessions start with, touches it once, freezes the heap."""
    gc.disable()
    sys.path[:] = list(settings["libraries"]) + list(settings["extra_paths"])
    sys.dont_write_bytecode = True
    sys.argv = [""]
    builtins.exit = builtins.quit = sys.exit  # as site does, which is left out here
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)  # 4300 digits are too few for number theory
    versions = {"python": platform.python_version()}
    for name in settings["preload"]:
        module = importlib.import_module(name)
        if "." not in name:
            versions[name] = str(getattr(module, "__version__", ""))
    warm_up()
    keep = [name for name in settings["preload"] if name.startswith("aster_jax")]
    for name in list(sys.modules):  # the harness came from a path that is gone now
        if name.startswith("aster_jax.tools") or name == "aster_jax" and not keep:
            del sys.modules[name]
    os.environ.clear()
    os.environ.update({"HOME": settings["scratch"], "PATH": "", "LANG": "C.UTF-8", "TZ": "UTC"})
    if threading.active_count() != 1:
        raise RuntimeError(f"preloading started threads: {threading.enumerate()}")
    gc.collect()
    gc.freeze()
    return versions


def warm_up() -> None:
    """Touches what most sessions touch, so that they share those pages."""
    if "sympy" in sys.modules:
        code = "from sympy import *\nx = symbols('x')\nsolve(x**2 - 3*x + 2, x)\n"
        code += "expand((x + 1)**5); factor(x**4 - 1); simplify(sin(x)**2 + cos(x)**2)\n"
        code += "str(integrate(x*exp(x), x)); lambdify(x, x**2)(3); del x\n"
        exec(code, {"__name__": "warm_up"})
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        numpy.linalg.eigvals(numpy.eye(3) + numpy.ones((3, 3)))
        numpy.random.seed(0)


class Nursery:
    """The fork loop. Process resource: children, the control socket."""

    def __init__(self, control: Control, settings: dict, tier: str, readable: tuple[str, ...]):
        self.control, self.settings, self.tier = control, settings, tier
        ask = settings["checkpoints"]
        guard = tier in confine.BEHIND_LANDLOCK
        program = seccomp.build(seccomp.SOMEBODY, ask, guard) if tier != "D" else b""
        self.walls = (readable, program)
        # Made once here: what a session would make it would have to hold privately.
        self.interpreter = cell.Interpreter(settings["last_value"])
        self.numbers = {}  # pid -> session number
        self.own_pidfd = os.pidfd_open(os.getpid()) if linux.IS_LINUX else -1

    def run(self) -> None:
        """Serves spawn orders and reports deaths until the control socket closes."""
        for died, told in stub.watch_children(self.control.socket):
            if died:
                self.reap()
            if told:
                order, descriptors = self.control.receive()
                if order is None:
                    os._exit(0)
                self.spawn(order, descriptors)

    def spawn(self, order: dict, descriptors: list[int]) -> None:
        """Forks one session and reports its pidfd."""
        apart = self.tier in confine.IN_NAMESPACES
        pid, problem = None, ""
        try:
            if apart:
                linux.unshare(linux.CLONE_NEWPID)
            pid = os.fork()
        except OSError as error:
            problem = str(error)
        if pid == 0:
            self.become_session(order, descriptors)
        if apart:  # later forks must not land in the session's namespace
            linux.set_namespace(self.own_pidfd, linux.CLONE_NEWPID)
        for number in descriptors:
            os.close(number)
        if pid is None:
            self.control.send({"op": "refused", "number": order["number"], "error": problem})
            return
        self.numbers[pid] = order["number"]
        handle = os.pidfd_open(pid)
        self.control.send({"op": "forked", "number": order["number"]}, (handle,))
        os.close(handle)

    def become_session(self, order: dict, descriptors: list[int]) -> None:
        """In the child: never returns."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if self.settings["checkpoints"]:
                control = socket.socket(fileno=descriptors.pop())
                runner = os.fork()
                if runner:
                    self.control.socket.close()
                    for number in descriptors:
                        os.close(number)
                    stub.announce(control, runner)
                    stub.run(control)
                control.close()
            session.serve(
                descriptors, order, self.settings, self.tier, self.walls, self.interpreter
            )
        except BaseException as error:  # nothing may return into the fork loop
            text = f"session failed to start or serve: {type(error).__name__}: {error}\n"
            os.write(2, text.encode("utf-8", "replace"))
        finally:
            os._exit(70)

    def reap(self) -> None:
        """Collects every dead session and tells the supervisor how it ended."""
        while self.numbers:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self.numbers.pop(pid, None)
            if number is None:
                continue
            self.control.send({
                "op": "exit", "number": number, "status": status,
                "cpu_s": usage.ru_utime + usage.ru_stime, "peak_kib": usage.ru_maxrss,
            })
