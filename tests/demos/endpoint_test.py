"""Requests to a real server on loopback that misbehaves in every way a server can."""

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


@pytest.mark.parametrize("kind", ["html", "list", "deep", "binary"])
def test_an_answer_that_is_none_is_not_asked_for_again(kind):
    with made_server.Server(lambda n: kind) as server:
        reply = ask(server)
        assert (reply.kind, server.number) == ("garbage", 1)
        assert len(reply.why) < 400


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
            "http://a/v1?key=1"],
)  # fmt: skip
def test_an_address_is_checked(url):
    with pytest.raises(InputError, match="demos.teacher.url"):
        endpoint.Endpoint(url)


def test_a_key_that_is_not_there_is_said(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(InputError, match="NO_KEY"):
        endpoint.check_key(endpoint.Endpoint("http://a/v1", key_env="NO_KEY"))
