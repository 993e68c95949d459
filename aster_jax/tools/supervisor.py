"""The supervisor: an exec'd process between the trainer and everything model-written.

It owns the deadline clock, so that a trainer that compiles or holds its interpreter lock
cannot delay a kill, and the admission queue, so that a cell's time limit does not depend
on how many others run. It has no secrets and almost no memory. It ends when its socket to
the trainer closes, and all sessions end with it.
"""

import asyncio
import collections
import contextlib
import os
import resource
import time

from aster_jax.tools import config, link, nest, result, seat, selftest

SWEEP_S = 1.0
STRAY_CPU_S = 0.05  # an idle session that used this much processor time is stopped


class Supervisor:
    """All sessions of one executor. `settings` is a ToolConfig as a dict plus paths."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: link.Link, settings: dict):
        self.loop, self.link, self.settings = loop, channel, settings
        self.seats, self.nests = {}, []
        self.queue, self.running = collections.deque(), 0
        self.max_running = settings["max_running"] or 2 * (os.cpu_count() or 1)
        self.tier, self.tried, self.layers, self.versions = "", [], {}, {}
        self.counts = collections.Counter()
        self.starting = None

    async def start(self) -> None:
        """Finds the best working tier. Raises StartError when none is good enough."""
        wanted = self.settings["tier"]
        worst = config.TIERS.index(self.settings["min_tier"])
        tiers = [wanted] if wanted else config.TIERS[: worst + 1]
        if self.settings["checkpoints"]:  # copies must die with their session: PID namespaces
            tiers = [tier for tier in tiers if tier in config.TIERS[:2]]
        for tier in tiers:
            try:
                await self.add_nest(tier)
                self.tier = tier
                return
            except nest.StartError as error:
                self.tried.append({"tier": tier, "error": str(error)})
        reasons = "; ".join(f"{row['tier']}: {row['error']}" for row in self.tried)
        raise nest.StartError(
            f"no isolation tier of {list(tiers)} works on this host ({reasons}); lower "
            "min_tier, or run `python -m aster_jax.tools doctor`"
        )

    async def add_nest(self, tier: str) -> None:
        """Starts one zygote and waits until it has loaded its libraries."""
        new = nest.Nest(self, self.loop, self.settings, tier)
        try:
            ready = await asyncio.wait_for(new.ready, self.settings["start_limit_s"])
        except asyncio.TimeoutError:
            new.lose(f"preloading took over {self.settings['start_limit_s']} s")
            raise nest.StartError("preloading took too long") from None
        problem = await selftest.check(new, tier, self.settings["start_limit_s"])
        if problem:
            new.lose(problem)
            raise nest.StartError(problem)
        self.versions, self.layers = ready["versions"], ready["layers"]
        self.nests.append(new)

    # Requests of the trainer.

    def take(self, message: dict) -> None:
        """One request."""
        kind = message["op"]
        if kind == "open":
            self.open(message["session"], message["seed"])
        elif kind == "call":
            self.submit(message["session"], seat.Call(message["call"], message["code"]))
        elif kind == "close":
            self.close(message["session"])
        elif kind == "report":
            self.link.send({"op": "report", "call": message["call"], "report": self.report()})

    def open(self, number: int, seed: int) -> None:
        """A new seat; its process is forked at once if that can be, else at its first call."""
        self.seats[number] = seat.Seat(self, number, seed)
        if len(self.seats) <= self.settings["max_sessions"] and self.pick_nest():
            with contextlib.suppress(OSError):  # out of descriptors: the call will tell
                self.seats[number].process = self.spawn(self.seats[number])

    def submit(self, number: int, call: seat.Call) -> None:
        """Queues a call, or answers at once what cannot run."""
        place = self.seats.get(number)
        if place is None:
            self.refuse(number, call, "usage_error", "no such session, or it is closed")
        elif place.call is not None or place.queued:
            self.refuse(number, call, "usage_error", "a call of this session is still running")
        elif place.broken:
            self.refuse(number, call, "infra_lost", place.broken, "lost")
        elif len(self.seats) > self.settings["max_sessions"]:
            self.refuse(number, call, "infra_overload", "more sessions than max_sessions")
        elif place.seq >= self.settings["max_calls"]:
            self.refuse(number, call, "call_limit", "")
        else:
            place.seq += 1
            place.queued = call
            self.queue.append(place)
            self.pump()

    def close(self, number: int) -> None:
        """Ends a session; a call in flight is cancelled."""
        place = self.seats.pop(number, None)
        if place is None:
            return
        if place.queued:
            self.queue.remove(place)
            call, place.queued = place.queued, None
            self.refuse(number, call, "cancelled", "the session was closed")
        process = place.process
        if place.call is not None:
            place.finish("cancelled", "lost", detail="the session was closed")
        place.process = None
        if process is not None:
            process.close()

    # Admission.

    def pump(self) -> None:
        """Lets queued calls run while there are free places: first come, first served."""
        now = time.monotonic()
        while self.queue and self.running < self.max_running:
            place = self.queue.popleft()
            call, place.queued = place.queued, None
            if now - call.submitted > self.settings["queue_limit_s"]:
                self.refuse(place.number, call, "infra_overload", "queue_limit_s passed")
                continue
            self.running += 1
            place.begin(call)

    def release(self, place: seat.Seat) -> None:
        """A call ended."""
        self.running -= 1
        if self.queue:
            self.loop.call_soon(self.pump)

    def pick_nest(self) -> nest.Nest | None:
        """The zygote with the fewest sessions, if any has room."""
        alive = [one for one in self.nests if not one.lost]
        return min(alive, key=lambda one: len(one.processes), default=None)

    def spawn(self, place: seat.Seat):
        """A new process for a seat; None (and later a restart) while no zygote lives."""
        chosen = self.pick_nest()
        if chosen is None:
            self.restart()
            return None
        full = len(chosen.processes) + 1 >= self.settings["sessions_per_zygote"]
        if full and self.starting is None:
            self.restart()
        return chosen.spawn(place)

    def restart(self) -> None:
        """Starts another zygote in the background."""
        if self.starting is None:
            self.starting = self.loop.create_task(self.grow())

    async def grow(self) -> None:
        """Adds a zygote, then serves the calls that wait for one."""
        failure = None
        try:
            await self.add_nest(self.tier)
            self.counts["zygotes_started"] += 1
        except nest.StartError as error:
            failure = str(error)
        self.starting = None
        for place in list(self.seats.values()):
            if place.call is not None and place.process is None:
                if failure is None:
                    place.begin(place.call)
                else:
                    place.finish("infra_unavailable", "lost", detail=failure)

    def on_nest_lost(self, lost: nest.Nest, reason: str) -> None:
        """Its sessions have been answered; the next ones need another zygote."""
        if lost in self.nests:
            self.nests.remove(lost)
            self.counts["zygotes_lost"] += 1
            self.restart()

    # Answers.

    def answer(self, place: seat.Seat, call: seat.Call, values: dict) -> None:
        """Sends the result of a call that ran."""
        self.refuse(place.number, call, **values)

    def refuse(self, number: int, call, status: str, detail: str, state="kept", **values) -> None:
        """Sends a result."""
        settings = self.settings
        self.counts[status] += 1
        text = result.render_text(
            status, state, values.get("stdout", ""), values.get("stderr", ""), detail=detail,
            limit=settings["wall_limit_s"], memory=settings["memory_limit_mib"],
            calls=settings["max_calls"],
        )
        values |= {"status": status, "state": state, "text": text, "tier": self.tier,
                   "session_id": number, "call_id": call.call_id}
        if detail and not values.get("error_message"):
            values["error_message"] = detail
        self.link.send({"op": "result", "call": call.call_id, "values": values})

    def sweep(self) -> None:
        """Once a second: queue deadlines, strays among the idle, sessions nobody uses."""
        now, settings = time.monotonic(), self.settings
        for place in list(self.queue):
            if now - place.queued.submitted > settings["queue_limit_s"]:
                self.queue.remove(place)
                call, place.queued = place.queued, None
                self.refuse(place.number, call, "infra_overload", "queue_limit_s passed")
        for place in list(self.seats.values()):
            process = place.process
            idle = place.call is None and not place.queued
            if idle and process is not None and process.ready and not process.frozen:
                if process.cpu_s() - process.idle_cpu_s > STRAY_CPU_S and place.seq:
                    process.freeze()
            if idle and now - place.last_used > settings["idle_limit_s"]:
                self.counts["idle_closed"] += 1
                self.close(place.number)
        self.loop.call_later(SWEEP_S, self.sweep)

    def report(self) -> dict:
        """For run metadata: the tier and why, versions, counters, process numbers."""
        return {
            "tier": self.tier, "layers": self.layers, "tried": self.tried,
            "versions": self.versions, "counts": dict(self.counts),
            "sessions": len(self.seats), "running": self.running, "queued": len(self.queue),
            "max_running": self.max_running,
            "supervisor_pid": os.getpid(), "zygote_pids": [one.pid for one in self.nests],
            "spare_pids": [spare.pid for one in self.nests for spare in one.spares],
            "session_pids": {
                place.number: place.process.pid
                for place in self.seats.values() if place.process is not None
            },
        }


async def serve(descriptor: int) -> None:
    """Reads the settings, starts, serves until the trainer goes away."""
    loop = asyncio.get_running_loop()
    channel = link.Link(loop, descriptor)
    first = loop.create_future()
    channel.listen(first.set_result)
    settings = await first
    supervisor = Supervisor(loop, channel, settings)
    try:
        await supervisor.start()
    except nest.StartError as error:
        channel.send({"op": "failed", "error": str(error), "tried": supervisor.tried})
        return
    channel.take = supervisor.take
    channel.send({"op": "ready", "report": supervisor.report()})
    supervisor.sweep()
    await channel.ended
    os._exit(0)  # closing the control sockets ends zygotes; PID namespaces end the rest


def main(descriptor: int) -> None:
    """Runs a supervisor on the socket `descriptor`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # each session takes four descriptors
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(serve(descriptor))


