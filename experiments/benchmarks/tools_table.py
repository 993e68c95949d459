"""The acceptance table of the tool benchmark: from raw numbers to verdicts."""


def make_rows(found: dict) -> list[tuple]:
    """(row, quantity, measured, required, holds) from what the benchmark measured.

    `holds` is None where a peer is missing: the row is shown as skipped.
    """
    ours, peers = found["latency"], found["peers"]
    best, none = ours["best"], ours["none"]
    crowds, kills, growth = found["crowds"], found["kills"], found["growth"]
    fresh, persist = peers["processes"]["fresh_s"], peers["processes"]["persist_s"]
    rows = jupyter_rows(found) if peers["jupyter"] else [
        ("A1-A3 A6 A9 A10", "against Jupyter", "skipped: " + peers["jupyter_missing"], "", None)]
    rows += [
        ("A1", "start p50, p99", f"{ms(best['start'])}, {ms(best['start_p99'])}", "12 ms, 40 ms",
         best["start"] <= 0.012 and best["start_p99"] <= 0.040),
        ("A3", "call p50, p99", f"{ms(best['call'])}, {ms(best['call_p99'])}", "0.6 ms, 3 ms",
         best["call"] <= 0.0006 and best["call_p99"] <= 0.003),
        more("A4", "call, restore-run-persist process", persist / best["call"], 400),
        more("A5", "call, fresh python + sympy", fresh / best["call"], 400),
        ("A6", "calls/s, 256 sessions", f"{crowds[256]['rate']:.0f}", ">= 1500",
         crowds[256]["rate"] >= 1500),
        more("A6", "calls/s, processes on 2 cores", crowds[256]["rate"] * persist / 2, 200),
        more("A7", "rate at 512 over rate at 64", crowds[512]["rate"] / crowds[64]["rate"], 0.5),
        ("A8", "256 started in parallel", f"{crowds[256]['start']:.2f} s, "
         f"{crowds[256]['failures']} failures", "4 s, 0",
         crowds[256]["start"] <= 4 and not crowds[256]["failures"]),
        less("A9", "idle PSS at 256", crowds[256]["idle"], 6, "MB"),
        less("A10", "PSS after a solve and gc", crowds[256]["solved"], 18, "MB"),
        ("A11", "state probes that fail", str(found["fidelity"]), "at most 1",
         len(found["fidelity"]) <= 1),
        less("A13", "soft time-out overshoot p99", kills["soft"] * 1e3, 50, "ms"),
        less("A13", "the same, 128 busy loops", kills["busy"] * 1e3, 600, "ms"),
        less("A14", "hard kill after deadline p99", kills["hard"] * 1e3, 250, "ms"),
        less("A15", "other session, 128 busy loops p99", kills["canary"] * 1e3, 500, "ms"),
        ("A16", "growth over lifecycles", str(growth), "none (2 MB of noise)",
         growth["files"] <= 0 and growth["zombies"] <= 0 and growth["resident_kb"] < 2048),
        less("A18", "isolation: start", (best["start"] - none["start"]) * 1e3, 5, "ms"),
        less("A18", "isolation: call", 100 * (best["call"] / none["call"] - 1), 25, "%"),
        ("A21", "seeded trajectories, twice", str(found["repeat"]), "equal, no infra",
         found["repeat"]["equal"] and not found["repeat"]["infra"]),
        ("A17 A19 A20", "kills, hostile cells, stall", "run pytest tests/tools", "", None),
    ]
    return rows


def jupyter_rows(found: dict) -> list[tuple]:
    """The rows that divide by a Jupyter kernel's number."""
    best, jupyter = found["latency"]["best"], found["peers"]["jupyter"]
    crowd = found["crowds"][256]
    whole = jupyter["start_s"] + jupyter["import_s"]
    return [
        more("A1", "start, Jupyter", jupyter["start_s"] / best["start"], 50),
        more("A2", "start, Jupyter + imports", whole / best["start"], 75),
        more("A3", "call, Jupyter", jupyter["call_p50_s"] / best["call"], 10),
        more("A6", "calls/s, Jupyter", crowd["rate"] / jupyter["calls_per_s"], 5),
        more("A9", "idle PSS, Jupyter", jupyter["idle_mb"] / crowd["idle"], 8),
        more("A10", "PSS after solve, Jupyter", jupyter["solved_mb"] / crowd["solved"], 4),
        ("A11", "state probes Jupyter fails", str(jupyter["fidelity"]), "", None),
    ]


def ms(seconds: float) -> str:
    """Milliseconds as text."""
    return f"{seconds * 1e3:.2f} ms"


def more(row: str, what: str, ratio: float, least: float) -> tuple:
    """A ratio that has to be at least something."""
    return row, what, f"{ratio:.1f}x", f">= {least:g}x", ratio >= least


def less(row: str, what: str, value: float, most: float, unit: str) -> tuple:
    """A value that has to be at most something."""
    return row, what, f"{value:.2f} {unit}", f"<= {most:g} {unit}", value <= most


def show(found: dict) -> None:
    """Prints the table; a row that was not compared says so."""
    for row, what, measured, required, holds in make_rows(found):
        verdict = {True: "holds", False: "MISSED", None: "not compared"}[holds]
        print(f"{row:12} {what:36} {measured:34} {required:22} {verdict}")
