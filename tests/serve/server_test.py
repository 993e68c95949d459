"""The whole server over a real engine: a real port, real clients, and clients that misbehave."""

import asyncio
import concurrent.futures
import http.client
import json
import socket
import threading
import time
import types as python_types

import pytest

from aster_jax import rollout
from aster_jax.data import chat
from tests.rollout import chatter

uvicorn = pytest.importorskip("uvicorn", reason="the server needs uvicorn and starlette")
pytest.importorskip("starlette", reason="the server needs uvicorn and starlette")
from aster_jax.serve import answering, app, desk  # noqa: E402
from aster_jax.serve.limits import Limits  # noqa: E402

MESSAGES = [{"role": "user", "content": "What is 12*7?"}]
LIMITS = Limits(body_bytes=20_000, queue=40, body_s=1.0, request_s=60.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return chatter.loaded(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def engine(model):
    made = rollout.Engine(model, how=None, slots=8, capacity=512, steps_per_dispatch=4)
    made.warm_up()
    return made


@pytest.fixture(scope="module")
def server(engine):
    """A server in a thread of this process, and its port and desk."""
    behind = desk.Desk(engine, LIMITS.queue, print)
    served = app.Served("talker", engine, behind, LIMITS, True)
    config = uvicorn.Config(app.build(served), host="127.0.0.1", port=0, log_level="error")
    running, sock = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[sock])))
    thread.start()
    until = time.monotonic() + 30
    while not running.started and time.monotonic() < until:
        time.sleep(0.02)
    yield python_types.SimpleNamespace(port=sock.getsockname()[1], desk=behind)
    running.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def post(server, path, body, **headers):
    """(status, JSON of the answer)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, body, {"Content-Type": "application/json"} | headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def ask(server, seed=0, **more):
    """The first choice of a chat."""
    body = {"model": "talker", "messages": MESSAGES, "max_tokens": 60, "seed": seed} | more
    status, found = post(server, "/v1/chat/completions", body)
    assert status == 200, found
    return found["choices"][0]


def events(server, **more):
    """The chunks of a streamed chat."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"model": "talker", "messages": MESSAGES, "max_tokens": 60, "stream": True} | more
    connection.request("POST", "/v1/chat/completions", json.dumps(body),
                       {"Content-Type": "application/json"})  # fmt: skip
    text = connection.getresponse().read().decode()
    found = text.removesuffix("\n\n").split("\n\n")
    assert found[-1] == "data: [DONE]"
    return [json.loads(e.removeprefix("data: ")) for e in found[:-1]]


def quiet(server):
    """Wait until nothing is under way any more, which must not take long."""
    until = time.monotonic() + 20
    while server.desk.under_way and time.monotonic() < until:
        time.sleep(0.02)
    assert server.desk.under_way == 0


def test_models(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/v1/models")
    found = json.loads(connection.getresponse().read())
    assert [m["id"] for m in found["data"]] == ["talker"]


def test_a_seed_decides_and_a_stream_says_the_same(server):
    first = [ask(server, seed) for seed in range(6)]
    assert [ask(server, seed) for seed in range(6)] == first and len(set(map(str, first))) > 1
    for seed, one in enumerate(first):
        chunks = events(server, seed=seed)
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
        assert text == one["message"]["content"]
        assert chunks[-1]["choices"][0]["finish_reason"] == one["finish_reason"] == "stop"


def test_calls_come_back_and_their_results_are_rendered(server, model):
    tools = [{"type": "function", "function": {"name": "code_interpreter"}}]
    answers = (ask(server, s, tools=tools)["message"] for s in range(40))
    made = next(m for m in answers if "tool_calls" in m)
    call = made["tool_calls"][0]
    assert call["function"]["name"] == "code_interpreter"
    assert json.loads(call["function"]["arguments"])["code"].startswith("print(")
    result = {"role": "tool", "tool_call_id": call["id"], "content": "84"}
    history = [*MESSAGES, made, result]
    body = {"model": "talker", "messages": history, "tools": tools, "max_tokens": 5}
    _, found = post(server, "/v1/chat/completions", body)
    rendered = chat.render(history, tools, model.tokenizer, chatter.STYLE, True)[0]
    assert found["usage"]["prompt_tokens"] == len(rendered)
    # Without tools a call is text.
    plain = [ask(server, s) for s in range(12)]
    assert any("<tool_call>" in c["message"]["content"] for c in plain)
    assert {c["finish_reason"] for c in plain} == {"stop"}


def test_log_probs_and_ids_are_the_engines(server, engine, model):
    body = {"model": "talker", "prompt": chat.prompt_ids("x", None, model.tokenizer, chatter.STYLE),
            "max_tokens": 30, "logprobs": 0, "return_token_ids": True, "seed": 5, "n": 2}  # fmt: skip
    status, found = post(server, "/v1/completions", body)
    assert status == 200 and [c["index"] for c in found["choices"]] == [0, 1]
    one = found["choices"][0]
    text = model.tokenizer.decode([i for i in one["token_ids"] if i not in (3,)])
    assert one["text"] == text.removesuffix("<|im_end|>")
    assert len(one["token_ids"]) == len(one["logprobs"]["token_logprobs"]) > 0
    assert found["usage"]["completion_tokens"] == sum(len(c["token_ids"]) for c in found["choices"])
    logits = rollout_logits(model, [*body["prompt"], *one["token_ids"]], len(body["prompt"]))
    assert logits == pytest.approx(one["logprobs"]["token_logprobs"], abs=2e-4)


def test_a_raw_prompt_is_read_with_its_control_tokens(server, model):
    """As one of ours writes it who asks a teacher: the same ids as the rendered conversation."""
    asked = [{"role": "user", "content": "Is <|im_end|> a tag, or a < b?"}]
    raw = chat.raw_prompt(asked, None, chatter.STYLE)
    ids = answering.text_ids(raw, model.tokenizer)
    assert ids.count(model.tokenizer.control["<|im_end|>"]) == 1
    plain = [{"role": "user", "content": "What is 12*7?"}]
    prompt = chat.raw_prompt(plain, None, chatter.STYLE)
    assert answering.text_ids(prompt, model.tokenizer) == tuple(
        chat.prompt_ids("What is 12*7?", None, model.tokenizer, chatter.STYLE)
    )
    status, found = post(server, "/v1/completions", {"model": "talker", "prompt": prompt, "max_tokens": 60})
    assert status == 200 and found["choices"][0]["finish_reason"] == "stop"
    assert found["choices"][0]["text"].startswith(("<tool_call>", "The answer"))


def rollout_logits(model, ids, start):
    """Log-probs of ids[start:] by the whole forward."""
    import jax

    from aster_jax.model import transformer

    tokens = jax.numpy.asarray([ids])
    positions = jax.numpy.arange(len(ids))[None]
    hidden, _ = transformer.forward(model.params, model.config, tokens, positions)
    logp = jax.nn.log_softmax(transformer.logits(model.params, model.config, hidden))[0]
    return [float(logp[t - 1, ids[t]]) for t in range(start, len(ids))]


def test_limits_of_an_answer(server):
    one = ask(server, seed=1, max_tokens=1)
    assert one["finish_reason"] == "length"
    whole = ask(server, seed=1, temperature=0)["message"]["content"]
    assert ask(server, seed=2, temperature=0)["message"]["content"] == whole
    cut = ask(server, temperature=0, stop=[whole[4:7]])
    assert cut["message"]["content"] == whole[: whole.index(whole[4:7])]
    assert cut["finish_reason"] == "stop"


@pytest.mark.parametrize("path, body, status, code", [
    ("/v1/chat/completions", b"{", 400, "invalid_json"),
    ("/v1/chat/completions", b"x" * 30_000, 413, "body_too_large"),
    ("/v1/chat/completions", {"model": "other", "messages": MESSAGES}, 404, "model_not_found"),
    ("/v1/chat/completions", {"messages": MESSAGES}, 400, "invalid_value"),
    ("/v1/chat/completions", {"model": "talker", "messages": [{"role": "x"}]}, 400, "invalid_value"),
    ("/v1/chat/completions", {"model": "talker", "messages": [{"role": "user", "content": "7 " * 900}]},
     400, "context_length_exceeded"),
    ("/v1/completions", {"model": "talker", "prompt": [10**9]}, 400, "invalid_value"),
    ("/v1/completions", {"model": "talker", "prompt": "a", "max_tokens": 10**9}, 400,
     "context_length_exceeded"),
    ("/v1/nothing", {}, 404, "not_found"),
])  # fmt: skip
def test_what_is_wrong_is_told_and_harms_nobody(server, path, body, status, code):
    with concurrent.futures.ThreadPoolExecutor() as others:
        beside = others.submit(ask, server, 3)
        found = post(server, path, body)
        assert (found[0], found[1]["error"]["code"]) == (status, code) and found[1]["error"]["message"]
        assert beside.result() == ask(server, 3)
    quiet(server)


def test_pages_of_a_browser_and_other_names_are_refused(server):
    body = {"model": "talker", "messages": MESSAGES}
    kind = {"Content-Type": "text/plain"}
    assert post(server, "/v1/chat/completions", body, **kind)[0] == 415
    assert post(server, "/v1/chat/completions", body, Host="evil.example")[0] == 403
    assert post(server, "/v1/chat/completions", body | {"max_tokens": 1}, Host="localhost:1")[0] == 200
    assert app.is_loopback("[::1]:80") and app.is_loopback("127.3.2.1")
    assert not app.is_loopback("127.evil.example") and not app.is_loopback("10.0.0.1:80")


def raw(server, text):
    """A connection that has sent this much of a request."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    sock.sendall(text)
    return sock


def request(body):
    """A request as bytes."""
    body = json.dumps({"model": "talker", "messages": MESSAGES} | body).encode()
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: localhost",
             "Content-Type: application/json", f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


def test_who_leaves_frees_the_slots(server):
    """Whole answers and streams, left before and while they are made; others are as ever."""
    want = ask(server, 3)
    for stream in (False, True):
        for wait_s in (0.0, 0.05):
            gone = [raw(server, request({"n": 8, "stream": stream, "seed": i})) for i in range(3)]
            time.sleep(wait_s)
            for sock in gone:
                sock.close()
            assert ask(server, 3) == want
    quiet(server)


def test_a_body_that_never_ends_is_not_waited_for(server):
    sock = raw(server, request({})[:-5])
    answer = b""
    while part := sock.recv(4096):
        answer += part
        if b"timeout" in answer or b"longer than" in answer:
            break
    assert b" 408 " in answer.split(b"\r\n")[0]


def test_more_than_may_wait_is_refused_and_the_rest_is_answered(server):
    """60 answers for 8 slots and a queue of 40: 48 fit."""
    with concurrent.futures.ThreadPoolExecutor(60) as clients:
        body = {"model": "talker", "messages": MESSAGES, "max_tokens": 60}
        found = list(clients.map(lambda i: post(server, "/v1/chat/completions", body | {"seed": i % 5}),
                                 range(60)))  # fmt: skip
    quiet(server)
    refused = [f for status, f in found if status != 200]
    assert all(f["error"]["code"] == "overloaded" for f in refused) and len(refused) <= 12
    said = [json.dumps(f["choices"]) for status, f in found if status == 200]
    assert len(set(said)) == len({json.dumps([ask(server, s)]) for s in range(5)})


def test_the_openai_client(server):
    openai = pytest.importorskip("openai", reason="OpenAI's client library is not installed")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="-", max_retries=0)
    assert [m.id for m in client.models.list()] == ["talker"]
    made = client.chat.completions.create(model="talker", messages=MESSAGES, seed=1, logprobs=True)
    stream = client.chat.completions.create(model="talker", messages=MESSAGES, seed=1, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert made.choices[0].message.content == text and made.choices[0].logprobs.content
    with pytest.raises(openai.BadRequestError, match="presence_penalty"):
        client.chat.completions.create(model="talker", messages=MESSAGES, presence_penalty=1.0)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_other_addresses_have_to_be_asked_for(monkeypatch, capsys):
    from aster_jax.serve import __main__ as command

    for host in ("0.0.0.0", "::", "10.1.2.3", "example.com"):
        monkeypatch.setattr("sys.argv", ["serve", "--model", "no/such", "--host", host])
        assert command.main() == 1
        assert "--allow_remote" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["serve", "--model", "no/such", "--host", "::1"])
    assert command.main() == 1
    assert "no/such" in capsys.readouterr().err
