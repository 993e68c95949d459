"""`python -m aster_jax.serve --model DIR|WORKDIR|pypi:NAME==VERSION|...`: an OpenAI endpoint.

All requests share the slots of one engine. It listens on this machine only, for there is no
authentication. SIGTERM and Ctrl-C let what is under way finish for `--grace_s`.
"""

import argparse
import pathlib
import signal
import sys

from aster_jax import named, rollout
from aster_jax.errors import InputError
from aster_jax.serve.limits import Limits


def main() -> int:
    """Entry point: what is wrong becomes one sentence and exit code 1."""
    try:
        return _serve(_arguments())
    except InputError as e:
        print(f"aster_jax.serve: {e}", file=sys.stderr)
        return 1


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m aster_jax.serve", description=__doc__)
    named.ask(parser)
    add = parser.add_argument
    add("--name", default="", help="that clients give; default the model's own")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8000, help="0 takes a free one")
    add("--allow_remote", action="store_true", help="listen on other addresses than loopback")
    add("--slots", type=int, default=64, help="answers under way at once; others wait")
    add("--context_tokens", type=int, default=2048, help="of one row, prompt and answer")
    add("--pool_tokens", type=int, default=0, help="that all rows together hold; 0: all full")
    add("--steps_per_dispatch", type=int, default=16, help="tokens per row between two looks")
    add("--ahead", type=int, default=0, help="dispatches under way; 1 suits accelerators")
    add("--seed", type=int, default=0, help="of the server's randomness, beside requests' own")
    add("--grace_s", type=int, default=20, help="from SIGTERM until what is unfinished is cut")
    limits = Limits()
    add("--body_bytes", type=int, default=limits.body_bytes, help="of one request")
    add("--choices", type=int, default=limits.choices, help="n of one request, at most")
    add("--queue", type=int, default=limits.queue, help="answers that may wait for a slot")
    add("--requests_per_minute", type=int, default=0, help="of all clients; 0 for no limit")
    add("--request_s", type=float, default=limits.request_s, help="until an answer must be whole")
    return parser.parse_args()


def _serve(a) -> int:
    try:
        import uvicorn  # noqa: PLC0415

        from aster_jax.serve import app, desk  # noqa: PLC0415
    except ImportError as e:
        raise InputError(f"{e}; the server needs `pip install starlette uvicorn`") from e
    is_local = app.is_loopback(f"[{a.host}]" if ":" in a.host else a.host)
    if not (is_local or a.allow_remote):
        raise InputError(
            f"--host {a.host} can be reached from other machines, and nothing here asks who they "
            "are; give --allow_remote if that is meant"
        )
    limits = Limits(
        body_bytes=a.body_bytes, choices=a.choices, queue=a.queue, request_s=a.request_s,
        requests_per_minute=a.requests_per_minute,
    )  # fmt: skip
    found = named.load(a.model, a.checkpoint, a.step)
    engine = rollout.Engine(
        found.model, style=a.style, how=None, slots=a.slots, capacity=a.context_tokens,
        pool_tokens=a.pool_tokens, steps_per_dispatch=a.steps_per_dispatch, ahead=a.ahead,
        dtype=a.dtype,
    )  # fmt: skip
    engine.warm_up()
    name = a.name or pathlib.PurePath(a.model).name
    failures = []

    def fail(why):
        failures.append(why)
        server.should_exit = True

    served = app.Served(name, engine, desk.Desk(engine, limits.queue, fail, a.seed), limits, is_local)
    config = uvicorn.Config(
        app.build(served), host=a.host, port=a.port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=a.grace_s, limit_concurrency=a.slots + a.queue + 64,
    )  # fmt: skip
    server = uvicorn.Server(config)
    # uvicorn raises the signals that it has obeyed once more when it is done.
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: None)
    sock = config.bind_socket()
    host, port = sock.getsockname()[:2]
    where = f"[{host}]" if ":" in host else host
    print(f"{found.origin} is served as {name!r} at http://{where}:{port}/v1", flush=True)
    server.run(sockets=[sock])
    print("stopped" + (f": the engine has failed: {failures[0]}" if failures else ""), flush=True)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
