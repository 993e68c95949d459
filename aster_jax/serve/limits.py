"""What a client may ask of the server, in size, number and time."""

import dataclasses

from aster_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of one request and of all together.

    body_bytes of a request; choices (`n`) of one; stops, stop strings of one, each of
    stop_chars at most. queue: rows that may wait beyond those that have a slot.
    requests_per_minute of all clients, 0 for no limit. body_s: seconds a body may take to
    arrive; request_s: seconds until an answer must be whole.
    """

    body_bytes: int = 1 << 20
    choices: int = 16
    stops: int = 4
    stop_chars: int = 256
    queue: int = 256
    requests_per_minute: int = 0
    body_s: float = 30.0
    request_s: float = 600.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            least = 0 if field.name in ("queue", "requests_per_minute") else 1
            if not getattr(self, field.name) >= least:
                raise InputError(
                    f"{field.name}={getattr(self, field.name)} must be at least {least}"
                )


class Rate:
    """A bucket of requests that fills evenly; `now` in seconds comes from the caller."""

    def __init__(self, per_minute: int):
        self._per_s = per_minute / 60
        self._most = max(1.0, per_minute / 6)  # what ten seconds bring may come at once
        self._left, self._at = self._most, 0.0

    def wait_s(self, now: float) -> float:
        """0 and a request is taken from the bucket, or how long until there is one."""
        if not self._per_s:
            return 0.0
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._per_s
        self._left -= 1
        return 0.0
