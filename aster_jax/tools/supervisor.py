"""The supervisor: an exec'd process between the trainer and everything model-written.

It owns the deadline clock, so that a trainer that compiles or holds its interpreter lock
cannot delay a kill, and the admission queue, so that a cell's time limit does not depend
on how many others run: only cells that use a processor hold a place. It has no secrets and
almost no memory. It ends when its socket to the trainer closes, and all sessions with it.
"""

import asyncio
import collections
import contextlib
import os
import resource
import time
import traceback

from aster_jax.tools import config, link, nest, result, seat, selftest

SWEEP_S, LOOK_S, LOOK_WAITED_S = 1.0, 0.1, 0.025  # the last while calls wait for a place
AWAKE_CPU_S = 0.002  # a cell that used this much between two looks does not sleep
NAP_S = 0.1  # a cell that sleeps for less keeps its place
LONG_CPU_S = 0.05  # of one cell: from then on the trainer comes first
OVERDUE_S = 5.0  # a killed session of which nobody heard for so long is given up
FILES_APART, FILES_EACH = 64, 4  # descriptors of the supervisor, and for each session


class Supervisor:
    """All sessions of one executor. `settings` is a ToolConfig as a dict plus paths."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: link.Link, settings: dict):
        self.loop, self.link, self.settings = loop, channel, settings
        self.seats, self.nests = {}, []
        self.queue, self.running = collections.deque(), 0
        self.running_long, self.looks = set(), False  # seats whose call did not end at once
        self.stalled = collections.deque()  # of these, who slept and wants a place again
        self.max_running = settings["max_running"] or 2 * (os.cpu_count() or 1)
        self.veil = result.Veil(settings["libraries"], settings["root"])
        self.tier, self.tried, self.layers, self.versions = "", [], {}, {}
        self.counts = collections.Counter()
        self.starting = None

    async def start(self) -> None:
        """Finds the best working tier. Raises StartError when none is good enough."""
        reserve_files(self.settings["max_sessions"] + self.settings["spares"])
        wanted = self.settings["tier"]
        worst = config.TIERS.index(self.settings["min_tier"])
        tiers = [wanted] if wanted else config.TIERS[: worst + 1]
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
            problem = await selftest.check(new, tier, self.settings["start_limit_s"])
        except asyncio.TimeoutError:
            problem = "preloading took too long"
        if problem:
            new.lose(problem)
            raise nest.StartError(problem)
        self.versions, self.layers = ready["versions"], ready["layers"]
        self.nests.append(new)

    # Requests of the trainer.

    def take(self, message: dict) -> None:
        """One request."""
        kind = message["op"]
        try:
            if kind == "open":
                self.open(message["session"], message["seed"])
            elif kind == "call":
                self.submit(message["session"], seat.Call(message["call"], message["code"]))
            elif kind == "close":
                self.close(message["session"])
            elif kind == "report":
                self.link.send({**message, "report": self.report()})
        except Exception as error:  # a mistake of ours: the others must not wait for it
            traceback.print_exception(error)
            if kind == "call":
                call = seat.Call(message["call"], "")
                self.answer(message["session"], call, "infra_lost", repr(error), "lost")

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
            self.answer(number, call, "usage_error", "no such session, or it is closed")
        elif place.call is not None or place.queued:
            self.answer(number, call, "usage_error", "a call of this session is still running")
        elif place.broken:
            self.answer(number, call, "infra_lost", place.broken, "lost")
        elif len(self.seats) > self.settings["max_sessions"]:
            self.answer(number, call, "infra_overload", "more sessions than max_sessions")
        elif place.seq >= self.settings["max_calls"]:
            self.answer(number, call, "call_limit", "")
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
            self.answer(number, call, "cancelled", "the session was closed")
        child = place.process
        if place.call is not None:
            place.finish("cancelled", "lost", detail="the session was closed")
        place.process = None
        if child is not None:
            child.close()

    # Admission.

    def pump(self) -> None:
        """Lets queued calls run while there are free places: first come, first served."""
        while self.stalled and self.running < self.max_running:
            self.resume(self.stalled.popleft())
        while self.queue and self.running < self.max_running:
            place = self.queue.popleft()
            call, place.queued = place.queued, None
            self.running += 1
            try:
                place.begin(call)
            except Exception as error:  # a mistake of ours
                traceback.print_exception(error)
                place.finish("infra_unavailable", "lost", detail=repr(error))

    def release(self, place: seat.Seat, call: seat.Call) -> None:
        """A call ended."""
        self.running_long.discard(place)
        if self.stalled and place in self.stalled:
            self.stalled.remove(place)
        if not call.parked:
            self.running -= 1
        if self.queue or self.stalled:
            self.loop.call_soon(self.pump)

    def unpark(self, place: seat.Seat) -> None:
        """A sleeper woke up: it goes on if there is a place, else it is stopped until then.

        That counts as its own time, or cells that sleep first could all run at once.
        """
        if self.running < self.max_running:
            self.resume(place)
        else:
            place.process.freeze()
            self.stalled.append(place)

    def resume(self, place: seat.Seat) -> None:
        """A cell that had slept has a place again."""
        place.call.parked = False
        self.running += 1
        place.process.wake()

    def watch(self, place: seat.Seat) -> None:
        """Its cell did not end at once."""
        self.running_long.add(place)
        if not self.looks:
            self.looks = True
            self.loop.call_later(LOOK_WAITED_S if self.queue else LOOK_S, self.look)

    def look(self) -> None:
        """Many times a second while cells run that did not end at once: who sleeps, who woke
        up, who has more threads than it may, whether one computes for so long that the
        trainer has to come first.

        Threads that Python started are counted in the session; this finds the others.
        """
        most, now, long = self.settings["max_processes"], time.monotonic(), False
        for place in list(self.running_long):
            call, child = place.call, place.process
            if child is None:
                continue
            if place in self.stalled:
                if now - call.started > self.settings["wall_limit_s"]:  # to hear its time-out
                    self.stalled.remove(place)
                    self.resume(place)
                continue
            threads = child.threads()
            if threads > most:
                place.condemn("crashed", f"it started over {most} threads")
                continue
            if threads > 1:
                child.level(threads - 1)
            before_s, cpu_s = child.used_s, child.cpu_s()
            long = long or cpu_s - call.cpu_before_s > LONG_CPU_S
            if call.parked or self.queue and now - call.started > NAP_S:
                asleep = cpu_s - before_s < AWAKE_CPU_S and not child.wants_processor()
                if call.parked and not asleep:
                    self.unpark(place)
                elif asleep and not call.parked:  # its place is for those who wait
                    call.parked = True
                    self.running -= 1
        self.pump()
        niceness = self.settings["niceness"] if long else 0
        for one in self.nests:
            one.weigh(niceness)
        self.looks = bool(self.running_long) or any(one.niceness for one in self.nests)
        if self.looks:
            self.loop.call_later(LOOK_WAITED_S if self.queue else LOOK_S, self.look)

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
        if len(chosen.processes) + 1 >= self.settings["sessions_per_zygote"]:
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

    def on_nest_lost(self, lost: nest.Nest) -> None:
        """Its sessions have been answered; the next ones need another zygote."""
        if lost in self.nests:
            self.nests.remove(lost)
            self.counts["zygotes_lost"] += 1
            self.restart()

    def answer(self, number: int, call, status: str, detail: str, state="kept", **values) -> None:
        """Sends a result."""
        settings = self.settings
        self.counts[status] += 1
        text = result.render_text(
            status, state, values.get("stdout", ""), values.get("stderr", ""), detail=detail,
            limit=settings["wall_limit_s"], memory=settings["memory_limit_mib"],
            calls=settings["max_calls"],
        )
        for name in ("stdout", "stderr", "error_message"):
            if name in values:
                values[name] = self.veil.hide(values[name])
        values |= {"status": status, "state": state, "text": self.veil.hide(text),
                   "session_id": number, "call_id": call.call_id, "tier": self.tier}
        if detail and not values.get("error_message"):
            values["error_message"] = detail
        self.link.send({"op": "result", "call": call.call_id, "values": values})

    def sweep(self) -> None:
        """Once a second: what is overdue, sessions nobody uses, zygotes that do not answer."""
        self.loop.call_later(SWEEP_S, self.sweep)
        now, settings = time.monotonic(), self.settings
        turn_s = settings["wall_limit_s"] + settings["grace_s"]
        # As long as the cells before it may take is never too long: they could not be ours.
        patience_s = settings["queue_limit_s"] + len(self.seats) * turn_s / self.max_running
        for place in list(self.queue):
            if now - place.queued.submitted > patience_s:
                self.queue.remove(place)
                call, place.queued = place.queued, None
                self.answer(place.number, call, "infra_overload", "queue_limit_s passed")
        for place in list(self.seats.values()):
            call = place.call
            if call is None:
                if not place.queued and now - place.last_used > settings["idle_limit_s"]:
                    self.counts["idle_closed"] += 1
                    self.close(place.number)
            elif call.started is None:
                if now - call.begun > 2 * settings["start_limit_s"]:
                    place.finish("infra_unavailable", "lost", detail="no interpreter started")
            elif now - call.started > turn_s + OVERDUE_S and place.process is not None:
                place.condemn("crashed", "it did not end in time")
        for one in list(self.nests):
            if one.in_flight and now - one.heard > settings["start_limit_s"]:
                one.lose("the zygote went silent")

    def report(self) -> dict:
        """For run metadata: the tier and why, versions, counters, process numbers."""
        return {
            "tier": self.tier, "layers": self.layers, "tried": self.tried,
            "versions": self.versions, "counts": dict(self.counts),
            "sessions": len(self.seats), "running": self.running, "queued": len(self.queue),
            "max_running": self.max_running, "supervisor_pid": os.getpid(),
            "zygote_pids": [one.pid for one in self.nests],
            "spare_pids": [spare.pid for one in self.nests for spare in one.spares],
            "session_pids": {place.number: place.process.pid for place in self.seats.values()
                             if place.process is not None},
        }


def reserve_files(sessions: int) -> None:
    """Raises this process's limit of open files; StartError if `sessions` do not fit."""
    needed = FILES_APART + FILES_EACH * sessions
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, needed),) * 2)
    except (OSError, ValueError):  # only root may raise the hard limit
        raise nest.StartError(
            f"{sessions} sessions (max_sessions and spares) need {needed} open files, and this "
            f"host allows {hard}: lower max_sessions to {(hard - FILES_APART) // FILES_EACH} or "
            "less, or raise the limit (ulimit -Hn)"
        ) from None


async def serve(descriptor: int) -> None:
    """Reads the settings, starts, serves until the trainer goes away."""
    loop = asyncio.get_running_loop()
    first = loop.create_future()
    channel = link.Link(loop, descriptor, first.set_result)
    supervisor = Supervisor(loop, channel, await first)
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
    asyncio.run(serve(descriptor))
