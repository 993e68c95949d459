"""One trajectory's place at the tool: its interpreter, its call in flight, its verdicts.

A seat outlives its processes. It turns the events of a process into the status of the
call that was running: what it claimed, how it died, or what we killed it for (deadline,
output cap, forged frame). Every call ends, whatever happens.
"""

import os
import signal
import time

from aster_jax.tools import result


PEAK_AFTER_S = 0.02  # shorter cells are not worth the look at their peak memory
STARTS, START_AGAIN_S = 3, 0.2  # how often a process that could not start is tried


class Call:
    """A submitted cell: from submission through the queue to its one result."""

    def __init__(self, call_id: int, code: str):
        self.call_id, self.code = call_id, code
        self.submitted = time.monotonic()
        self.begun = self.started = None  # given a place; sent to its process
        self.cpu_before_s = 0.0
        self.parked = False  # it sleeps: its place is another's
        self.starts = 0


class Seat:
    """A session as the supervisor keeps it. `host` is the supervisor."""

    def __init__(self, host, number: int, seed: int):
        self.host, self.number, self.seed = host, number, seed
        self.process = self.call = self.queued = self.timer = None
        self.seq, self.last_used = 0, time.monotonic()
        self.lost_between = False  # it died after a call had ended: the next one is told
        self.broken = ""  # ours, not the model's: no later call can be answered truly

    def begin(self, call: Call) -> None:
        """The queue lets the call run: on the live process, or on a new one."""
        self.call, call.begun = call, call.begun or time.monotonic()
        if self.process is None:
            try:
                self.process = self.host.spawn(self)
            except OSError as error:  # out of descriptors: ours, not the model's
                self.finish("infra_overload", "lost", detail=str(error))
                return
        if self.process is not None and self.process.ready:
            self.start()

    def start(self) -> None:
        """Sends the cell and starts its clock, which is not the session's to stop."""
        call, settings = self.call, self.host.settings
        call.started = time.monotonic()
        call.cpu_before_s = self.process.cpu_s()
        self.process.start_call(call.code, settings["wall_limit_s"])
        self.process.soon.add(self.process, self.watch)

    def watch(self) -> None:
        """The cell did not end at once: reads its output as it comes, sets its deadline."""
        settings = self.host.settings
        self.host.watch(self)
        self.process.watch_pipes()
        rest_s = self.call.started + settings["wall_limit_s"] + settings["grace_s"]
        self.timer = self.host.loop.call_later(
            rest_s - time.monotonic(), self.process.guard, self.condemn, "timeout"
        )

    def condemn(self, status: str, detail: str = "") -> None:
        """Kills the process for a stated reason and answers at once.

        Its death is not waited for: on a busy machine that takes longer than the answer may.
        """
        child, self.process = self.process, None
        child.kill()
        child.drain()
        if self.call is None:
            self.lost_between = self.seq > 0
        else:
            if child.hung_up:  # it was ending by its own doing
                status, detail = "crashed", "its channel was closed"
            self.finish(status, "lost", detail=detail, process=child)
        child.close()

    # Events of the process.

    def on_ready(self, process) -> None:
        """A forked process finished confining itself."""
        if self.call is not None and self.call.started is None:
            self.start()

    def on_fault(self, process, status: str, why: str) -> None:
        """It wrote what no session writes, or too much, or could not be served."""
        if process is self.process:
            self.condemn(status, why)

    def on_reply(self, process, claim: dict) -> None:
        """It answered the call in flight."""
        self.finish(claim["status"], "kept", claim)

    def on_exit(self, process, report: dict) -> None:
        """It is dead and collected."""
        if process is not self.process:
            return
        self.process, process.nonce = None, None
        if self.call is None and report["status"] is None:
            self.broken = report["error"] if self.seq else ""  # it died with the zygote
        elif self.call is None:
            self.lost_between = self.seq > 0
        elif not process.ready:
            self.start_failed(process, report)
        elif report["status"] is None:
            self.finish("infra_lost", "lost", detail=report["error"], process=process)
        else:
            detail = describe_exit(report["status"])
            self.finish("crashed", "lost", report=report, detail=detail, process=process)

    def start_failed(self, process, report: dict) -> None:
        """No cell ran in it: the host lacked something, perhaps only for a moment."""
        self.call.starts += 1
        if self.call.starts < STARTS:
            self.host.loop.call_later(START_AGAIN_S * self.call.starts, self.start_again, self.call)
            return
        status = report["status"]
        why = report["error"] if status is None else describe_exit(status)
        detail = process.outputs[1].text() or why
        self.finish("infra_unavailable", "lost", detail=detail, process=process)

    def start_again(self, call: Call) -> None:
        """Tries once more, unless the call has ended meanwhile."""
        if self.call is call and self.process is None:
            self.begin(call)

    def finish(self, status, state, claim=None, report=None, detail="", process=None) -> None:
        """Makes the result of the call in flight and frees its place in the queue."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        call, self.call = self.call, None
        if self.lost_between:
            state, self.lost_between = "lost", False
        if status == "infra_lost":
            self.broken = detail
        process = process or self.process
        now = time.monotonic()
        values = {"detail": detail, "status": status, "state": state, "seq": self.seq}
        if process is not None:
            values |= measure(process, call, claim, report)
            process.leave_pipes()
            process.outputs = process.fresh_outputs()
        started = call.started if call.started is not None else now
        values["queue_s"], values["wall_s"] = started - call.submitted, now - started
        self.last_used = now
        self.host.answer(self.number, call, **values)
        self.host.release(self, call)


def measure(process, call: Call, claim: dict | None, report: dict | None) -> dict:
    """What is known about the finished call: output, kernel counters, the claim's words."""
    claim = claim or {"dropped": 0, "type": "", "message": "", "shown": 0, "threads": 0}
    threads = claim["threads"]
    if report and "cpu_s" in report:
        cpu_s, peak = report["cpu_s"], report["peak_kib"] << 10
    else:
        cpu_s = process.cpu_s()
        peak = process.peak_rss_bytes() if cpu_s - call.cpu_before_s > PEAK_AFTER_S else 0
        if process.watched:
            threads = max(0, process.threads() - 1)
    out, err = process.outputs
    unsent = claim["dropped"] if out.total + err.total else 0
    return {
        "stdout": out.text(unsent), "stderr": err.text(),
        "dropped_bytes": out.dropped(unsent) + err.dropped(),
        "error_type": result.neutralise(claim["type"]),
        "error_message": result.neutralise(claim["message"]),
        "last_value_printed": bool(claim["shown"]), "live_threads": threads,
        "cpu_s": max(0.0, cpu_s - call.cpu_before_s), "peak_rss_bytes": peak,
    }


def describe_exit(status: int) -> str:
    """A wait status in words a model understands."""
    if not os.WIFSIGNALED(status):
        return f"exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"
