"""Requests to a real server on loopback that misbehaves in every way a server can."""

import email.utils
import json
import threading
import time

import pytest

from aster_jax.demos import endpoint
from aster_jax.errors import InputError
from tests.demos import made_server

REQUEST = {"messages": [{"role": "user", "content": made_server.problems(3)[2].question}]}


def ask(server, retries=2, timeout_s=0.5, **more):
    made = endpoint.Endpoint(server.url, timeout_s=timeout_s, retries=retries, pause_s=0.01, **more)
    return endpoint.ask(made, "/chat/completions", REQUEST, threading.Event())


@pytest.mark.parametrize("trouble", ["error", "busy", "reset", "stall", "drip", "cut_off", "no_http"])
def test_trouble_of_transport_is_asked_again(trouble):
    with made_server.Server(lambda n: trouble if n < 1 else None) as server:
        reply = ask(server)
        assert (reply.kind, reply.attempts) == ("ok", 2), reply.why
        assert reply.body["choices"][0]["message"]["tool_calls"]
        assert len(server.paid) == 1
    with made_server.Server(lambda n: trouble) as server:
        reply = ask(server, retries=1)
        assert (reply.kind, reply.attempts, server.number) == ("trouble", 2, 2)
        assert reply.why and reply.body == {}


@pytest.mark.parametrize("kind", ["html", "list", "deep", "nested", "binary", "failed"])
def test_an_answer_that_is_none_is_not_asked_for_again(kind):
    with made_server.Server(lambda n: kind) as server:
        reply = ask(server)
        assert (reply.kind, server.number) == ("garbage", 1)
        assert len(reply.why) < 400
        assert kind != "failed" or "the model is away" in reply.why


def test_a_body_without_end_is_left(monkeypatch):
    monkeypatch.setattr(endpoint, "MAX_BYTES", 100_000)
    with made_server.Server(lambda n: "huge") as server:
        assert ask(server).kind == "garbage" and server.number == 1


@pytest.mark.parametrize("status, kind", [(400, "refused"), (422, "refused"), (404, "trouble"),
                                          (402, "trouble"), (302, "trouble"), (204, "trouble")])  # fmt: skip
def test_no_status_but_later_is_asked_again(status, kind):
    with made_server.Server(lambda n: lambda h: made_server.send(h, status, {"error": "x"})) as server:
        assert (ask(server).kind, server.number) == (kind, 1)


def test_a_wrong_key_is_trouble_and_told_to_nobody(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")

    def refuse(handler):
        made_server.send(handler, 401, {"error": f"bad {handler.headers['Authorization']}"})

    with made_server.Server(lambda n: refuse) as server:
        reply = ask(server, key_env="MY_KEY")
        assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert (reply.kind, server.number) == ("trouble", 1)
    assert "401" in reply.why and "[key]" in reply.why and "secret" not in reply.why


@pytest.mark.parametrize(
    "key, echo",
    [("sk-very-secret\n", "bad {}"), ("sk-very-secret", "x" * 265 + "{}"),
     ('sk-"secret\\', "bad {}"), ("sk-very\nsecret", "{}"), ("sk-\N{EM DASH}secret", "{}")],
    ids=["line end", "where it is cut", "as JSON writes it", "no header", "not ASCII"],
)  # fmt: skip
def test_no_form_of_a_key_is_shown(monkeypatch, key, echo):
    monkeypatch.setenv("MY_KEY", key)

    def refuse(handler):
        said = handler.headers["Authorization"]
        made_server.send(handler, 401, json.dumps({"error": echo.format(said)}).encode())

    with made_server.Server(lambda n: refuse) as server:
        reply = ask(server, key_env="MY_KEY", retries=0)
    assert reply.kind == "trouble" and "secret" not in reply.why and "sk-" not in reply.why


@pytest.mark.parametrize("key", ["sk-\N{EM DASH}secret", "sk-very\nsecret"])
def test_a_key_that_no_header_can_hold_is_said_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(InputError, match="MY_KEY .* printable ASCII") as e:
        endpoint.check_key(endpoint.Endpoint("http://a/v1", key_env="MY_KEY"))
    assert "secret" not in str(e.value)


def test_a_server_says_when_to_come_again_in_seconds_or_with_a_date():
    at = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < endpoint._seconds(at) < 31
    past = "Fri, 31 Dec 1999 23:59:59 GMT"
    told = ("1.5", "1e9", "nan", "-5", "", "soon", past, "Fri, 99 Dec 1999 99:99:99 GMT")
    assert [endpoint._seconds(t) for t in told] == [1.5, endpoint.LONGEST_PAUSE_S] + [0.0] * 6


def test_nobody_there_is_trouble_and_the_word_to_stop_ends_retries():
    with made_server.Server() as server:
        url = server.url
    stop = threading.Event()
    made = endpoint.Endpoint(url, retries=3, pause_s=0.01)
    reply = endpoint.ask(made, "/chat/completions", REQUEST, stop)
    assert (reply.kind, reply.attempts) == ("trouble", 4)
    stop.set()
    began = time.monotonic()
    reply = endpoint.ask(endpoint.Endpoint(url, pause_s=30.0), "/x", REQUEST, stop)
    assert (reply.kind, reply.attempts) == ("trouble", 1) and time.monotonic() - began < 5


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:80", "ftp://a/v1", "http:///v1", "http://a:b/v1", "http://k@a/v1",
            "http://a/v1?key=1", "http://a b/v1", "http://[::1/v1"],
)  # fmt: skip
def test_an_address_is_checked(url):
    with pytest.raises(InputError, match="demos.teacher.url"):
        endpoint.Endpoint(url)


@pytest.mark.parametrize(
    "keys, says",
    [({"timeout_s": 0.0}, "timeout_s=0.0 must be between"), ({"timeout_s": 1e10}, "timeout_s"),
     ({"timeout_s": float("nan")}, "timeout_s=nan"), ({"pause_s": float("inf")}, "pause_s=inf"),
     ({"key_env": "A=B"}, "the name of one that holds the key"), ({"key_env": "sk-1"}, "key_env")],
)  # fmt: skip
def test_how_it_is_asked_is_checked(keys, says):
    with pytest.raises(InputError, match=f"demos.teacher.*{says}"):
        endpoint.Endpoint("http://a/v1", **keys)


def test_a_key_that_is_not_there_is_said(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(InputError, match="NO_KEY"):
        endpoint.check_key(endpoint.Endpoint("http://a/v1", key_env="NO_KEY"))
