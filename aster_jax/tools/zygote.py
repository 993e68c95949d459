"""The zygote: loads the libraries once, isolated, and forks a session per order.

It is exec'd with an empty environment, enters its private root before it imports anything
large, stays single-threaded, and freezes its heap so that a collection in a session does
not copy it. It never runs model-written code itself and knows no secret.
"""

import contextlib
import gc
import importlib
import json
import os
import platform
import select
import signal
import socket
import sys
import threading

from aster_jax.tools import (
    cell, config, confine, landlock, linux, namespaces, seccomp, session, surroundings,
)


MESSAGE_BYTES = 1 << 18


def send(control: socket.socket, message: dict, descriptors: tuple[int, ...] = ()) -> None:
    """Sends one JSON object with descriptors attached; ends with the supervisor."""
    try:
        socket.send_fds(control, [json.dumps(message).encode()], descriptors)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)


def receive(control: socket.socket) -> tuple[dict, list[int]]:
    """The next message and its descriptors; ends with the supervisor."""
    data = b""
    with contextlib.suppress(ConnectionResetError):  # it died with messages of ours unread
        data, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 8)
    if not data:
        os._exit(0)
    return json.loads(data), descriptors


def main(descriptor: int) -> None:
    """Runs a zygote on the control socket `descriptor` until the supervisor goes away."""
    linux.set_process(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    control = socket.socket(fileno=descriptor)
    settings, _ = receive(control)
    tier = settings["tier"]
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("900")  # when memory runs out, not the trainer goes first
    try:
        layers, rules = settle_layers(tier, isolate(tier, settings, control))
        if tier == "B1":
            check_readable_after_drop(settings)
        versions = preload(settings)
    except (OSError, ImportError, RuntimeError) as error:
        send(control, {"op": "failed", "error": f"{type(error).__name__}: {error}"})
        return
    ready = {"op": "ready", "tier": tier, "versions": versions, "layers": layers}
    send(control, ready, (os.pidfd_open(os.getpid()),))
    Nursery(control, settings, tier, rules).run()


def isolate(tier: str, settings: dict, control: socket.socket) -> list[tuple[str, int]]:
    """Enters the tier's namespaces; returns what sessions may touch, as (path, rights).

    In A tiers this process stays outside as the parent of the returned-into child.
    """
    libraries = tuple(settings["libraries"]) + tuple(settings["extra_paths"])
    settings["scratch"] = namespaces.choose_scratch(libraries)
    hidden = find_project(settings)
    if tier == "A1":
        linux.unshare(namespaces.APART)
        namespaces.build_root(libraries, hidden)
        linux.unshare(linux.CLONE_NEWUSER)
    elif tier == "A2":
        linux.unshare(linux.CLONE_NEWUSER | namespaces.APART)
    if tier in confine.IN_NAMESPACES:
        send(control, {"op": "map", "whole": tier == "A1"})
        reply, _ = receive(control)
        if reply["op"] != "mapped":
            raise OSError(f"identity map refused: {reply}")
        if tier == "A1":
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        else:
            namespaces.build_root(libraries, hidden)
        become_first_process(control)
        return [("/", landlock.READ), (settings["scratch"], landlock.WRITE),
                ("/dev/null", landlock.WRITE)]  # the root holds nothing but libraries
    # Not all of /dev: below it lie other programs' memory, terminals and accelerators.
    readable = namespaces.prune((*namespaces.SYSTEM, *libraries))
    rules = [(path, landlock.READ) for path in (*split(readable, hidden), *namespaces.DEVICES)]
    rules += [(os.path.dirname(path), landlock.READ_DIR) for path in hidden]
    return [*rules, ("/dev/null", landlock.WRITE)]


def find_project(settings: dict) -> list[str]:
    """Where this project lies among the lent libraries, and a library that its problems may
    come from: both know the answers.

    Not below `extra_paths`: who lends it on purpose has a pool for trusted code.
    """
    lent = [os.path.realpath(path) for path in settings["extra_paths"]]
    hidden = []
    for library in map(os.path.realpath, settings["libraries"]):
        if library in lent or not os.path.isdir(library):
            continue
        hidden += [entry.path for entry in os.scandir(library)
                   if entry.name.startswith(("aster_jax", "reasoning_gym")) and entry.is_dir()]
    return hidden


def split(readable: list[str], hidden: list[str]) -> list[str]:
    """`readable` with each parent of a hidden directory replaced by its other entries.

    Landlock takes nothing back that lies below an allowed directory.
    """
    kept = []
    for path in readable:
        inside = [h for h in hidden if h.startswith(os.path.realpath(path) + "/")]
        if inside:
            entries = (entry.path for entry in os.scandir(path))
            kept += split([e for e in entries if os.path.realpath(e) not in inside], inside)
        else:
            kept.append(path)
    return kept


def settle_layers(tier: str, rules: list) -> tuple[dict, list | None]:
    """(state of each layer, `rules`, or None where Landlock is absent).

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
    return layers, rules


def become_first_process(control: socket.socket) -> None:
    """Continues as process 1 of a new PID namespace; the old process waits and follows."""
    linux.unshare(linux.CLONE_NEWPID)
    child = os.fork()
    # Set here once more: every change of identity above has cleared it.
    linux.set_process(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if child:
        control.close()
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
    versions = {"python": platform.python_version()}
    for name in settings["preload"]:
        module = importlib.import_module(name)
        if "." not in name:
            versions[name] = str(getattr(module, "__version__", ""))
    warm_up()
    surroundings.dress(settings)
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

    def __init__(self, control: socket.socket, settings: dict, tier: str, rules: list | None):
        self.control, self.settings, self.tier = control, settings, tier
        guard = tier in confine.BEHIND_LANDLOCK
        program = seccomp.build(seccomp.SOMEBODY, guard) if tier != "D" else b""
        self.walls = (rules, program)
        # Made once here: what a session would make it would have to hold privately.
        self.interpreter = cell.Interpreter(settings["last_value"])
        self.numbers = {}  # pid -> session number
        self.own_pidfd = os.pidfd_open(os.getpid())

    def run(self) -> None:
        """Serves spawn orders and reports deaths until the control socket closes."""
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            ready = {number for number, _ in poll.poll()}
            if wake in ready:
                os.read(wake, 4096)
                self.reap()
            if self.control.fileno() in ready:
                self.spawn(*receive(self.control))

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
            linux.call("setns", self.own_pidfd, linux.CLONE_NEWPID)
        for number in descriptors:
            os.close(number)
        if pid is None:
            send(self.control, {"op": "refused", "number": order["number"], "error": problem})
            return
        self.numbers[pid] = order["number"]
        handle = os.pidfd_open(pid)
        send(self.control, {"op": "forked", "number": order["number"]}, (handle,))
        os.close(handle)

    def become_session(self, order: dict, descriptors: list[int]) -> None:
        """In the child: never returns."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            walls, self.walls = self.walls, None
            session.serve(descriptors, order, self.settings, self.tier, walls, self.interpreter)
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
            if number is not None:  # else a child of something that was preloaded
                cpu_s = usage.ru_utime + usage.ru_stime
                send(self.control, {"op": "exit", "number": number, "status": status,
                                    "cpu_s": cpu_s, "peak_kib": usage.ru_maxrss})
