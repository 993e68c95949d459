"""Every limit and switch of the tool executor, with its unit in its name.

A ToolConfig is made by the caller, checked here once, and travels to the supervisor and
the zygote as JSON. Nothing below this file has a default of its own.
"""

import dataclasses
import math

# Best first. A1 root with namespaces; A2 the same inside a user namespace without root;
# B1 root in a container (own uid + Landlock); B2 plain user + Landlock. C (seccomp only)
# and D (resource limits only) are unsafe: other files of the same user are readable.
TIERS = ("A1", "A2", "B1", "B2", "C", "D")
SAFE_TIERS = TIERS[:4]
MATHS = "numpy", "scipy", "scipy.optimize", "scipy.special", "scipy.linalg", "sympy", "networkx"


@dataclasses.dataclass(frozen=True)
class ToolConfig:
    """Limits of a pool of interpreters. Raises ValueError for a value that cannot work.

    Time: `wall_limit_s` counts from the start of execution (never from submission) and
    ends a cell softly, keeping its variables; `grace_s` later it is killed. A call waits for
    a processor as long as the others' cells may take by their own limits; `queue_limit_s`
    more, and it ends as infra_overload. `start_limit_s` bounds
    preloading and self-test; a session unused for `idle_limit_s` is closed. A supervisor
    that says nothing for `silence_limit_s`, pings included, is killed and replaced.

    Size: `memory_limit_mib` is on top of the preloaded interpreter; the harness has
    `headroom_mib` more, to answer when a cell has used it all. Of each output stream
    `output_head_bytes` and `output_tail_bytes` are kept; a session that pushes more than
    `output_kill_mib` past its own printing layer is killed. `scratch_mib` is a private
    /tmp (0, or a tier without mounts: no writable directory at all); `file_limit_mib`
    bounds one file there, `code_limit_bytes` a cell's source.

    Number: `max_running` cells that use a processor at once on this host (0: twice the
    processors), live `max_sessions` (each takes four open files of the supervisor),
    `max_calls` per session, `spares` forked ahead of need; `max_processes` (threads) and
    `max_files` per session; `niceness` of sessions, so that the trainer comes first: where
    the kernel shares out by groups, all of them weigh as one such while a cell runs that has
    computed for 50 ms (short ones would wait for no good). One zygote serves
    `sessions_per_zygote`.

    Meaning: `last_value` shows a final expression as its `str`, its `repr`, its `repr`
    over several lines (`pretty`, as notebooks do), not at all (`none`), or as the public
    ASTER code does (`aster`: None is shown too).

    Code: `preload` is imported before sessions are forked; `extra_paths` are made
    importable, read-only: use it only for a trusted pool such as answer verification.

    Safety: `min_tier` refuses to start on a host that cannot give at least that
    isolation; `tier` forces one; the unsafe C and D also need `allow_unsafe`.
    """

    wall_limit_s: float = 30.0
    grace_s: float = 1.0
    queue_limit_s: float = 600.0
    start_limit_s: float = 120.0
    idle_limit_s: float = 7200.0
    silence_limit_s: float = 20.0
    memory_limit_mib: int = 1024
    headroom_mib: int = 64
    file_limit_mib: int = 16
    scratch_mib: int = 64
    output_head_bytes: int = 8192
    output_tail_bytes: int = 8192
    output_kill_mib: int = 8
    code_limit_bytes: int = 1 << 19
    max_running: int = 0
    max_sessions: int = 1000
    sessions_per_zygote: int = 500
    max_calls: int = 50
    spares: int = 4
    max_processes: int = 16
    max_files: int = 64
    niceness: int = 10
    last_value: str = "str"
    preload: tuple[str, ...] = MATHS
    extra_paths: tuple[str, ...] = ()
    min_tier: str = "B2"
    tier: str = ""
    allow_unsafe: bool = False

    def __post_init__(self):
        """Checks every field against `BOUNDS` and the tier switches against each other."""
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"ToolConfig.{name} must be a number, got {value!r}")
            if not (math.isfinite(value) and low <= value <= high):
                raise ValueError(
                    f"ToolConfig.{name}={value!r} is outside [{low}, {high}]; pick a value inside"
                )
            if type(self).__annotations__[name] is int and not isinstance(value, int):
                raise ValueError(f"ToolConfig.{name} must be a whole number, got {value!r}")
        if self.last_value not in ("str", "repr", "pretty", "none", "aster"):
            raise ValueError(
                f"ToolConfig.last_value={self.last_value!r}: use str, repr, pretty, none or aster"
            )
        for name in ("preload", "extra_paths"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"ToolConfig.{name} must be a tuple of strings, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        least, tier = self.min_tier, self.tier
        if least not in TIERS:
            raise ValueError(f"ToolConfig.min_tier={least!r} is not one of {TIERS}")
        if tier and tier not in TIERS:
            raise ValueError(f"ToolConfig.tier={tier!r} is not one of {TIERS} (or empty: the best)")
        if not self.allow_unsafe and not {least, tier or least} <= set(SAFE_TIERS):
            raise ValueError(
                f"min_tier={least!r}, tier={tier!r}: tiers C and D do not protect this user's "
                "files from model-written code; set allow_unsafe=True only for trusted cells"
            )
        if tier and TIERS.index(tier) > TIERS.index(least):
            raise ValueError(f"tier={tier!r} is weaker than min_tier={least!r}; lower min_tier")


# Text bounds leave room in a frame of 4 MiB for JSON's escapes, six bytes for one at worst.
BOUNDS = {
    "wall_limit_s": (0.01, 86400), "grace_s": (0.0, 600), "queue_limit_s": (0.0, 86400),
    "start_limit_s": (1.0, 3600), "idle_limit_s": (1.0, 7 * 86400), "silence_limit_s": (1.0, 3600),
    "memory_limit_mib": (64, 1 << 20), "headroom_mib": (16, 1 << 10),
    "file_limit_mib": (0, 1 << 16), "scratch_mib": (0, 1 << 16), "output_kill_mib": (1, 1 << 10),
    "output_head_bytes": (64, 1 << 16), "output_tail_bytes": (0, 1 << 16),
    "code_limit_bytes": (1, 640 << 10), "max_running": (0, 4096), "max_sessions": (1, 20000),
    "sessions_per_zygote": (1, 5000), "max_calls": (1, 1 << 20), "spares": (0, 64),
    "max_processes": (1, 4096), "max_files": (16, 4096), "niceness": (0, 19),
}
