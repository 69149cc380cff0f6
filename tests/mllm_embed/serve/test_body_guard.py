"""Bodies: how long, how slow, of what kind, and JSON that all readers read alike. Against a real server."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from mllm_embed.serve.body_guard import BodyGuard
from mllm_embed.serve.guards.json_text import DEEPEST, read_json
from mllm_embed.serve.guards.protocol import GuardedProtocol
from mllm_embed.serve.limits import Limits
from mllm_embed.serve.refusals import Refusal, install
from servers.http import PATIENCE, Running, running

JSON = {"Content-Type": "application/json"}
SHORT = 0.5  # seconds that the impatient server waits for anything


class Patient(GuardedProtocol):
    head_bytes, head_seconds, read_seconds = 20_000, PATIENCE, PATIENCE


class Impatient(Patient):
    head_seconds = read_seconds = SHORT


class Served:
    """An application that tells what it read, and holds on to requests to /hold until it is let go."""

    def __init__(self, seconds: float) -> None:
        self.app = FastAPI()
        self.letting_go, self.held = threading.Event(), threading.Semaphore(0)
        self.app.add_api_route("/v1/echo", self.echo, methods=["GET", "POST", "DELETE"])
        self.app.add_api_route("/v1/hold", self.hold, methods=["POST"])
        self.app.add_api_route("/v1/large", lambda: Response(bytes(50 << 20)), methods=["GET"])
        install(self.app)
        self.app.add_middleware(BodyGuard, limits=Limits(body=100_000, bodies=150_000, seconds=seconds))
        self.running: Running

    async def echo(self, request: Request) -> Any:
        return {"bytes": len(await request.body()), "json": getattr(request.state, "json", None)}

    def hold(self) -> Any:
        self.held.release()
        self.letting_go.wait(PATIENCE)
        return {}

    def connection(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.running.port), timeout=PATIENCE)

    def send(self, data: bytes, finish: bool = False) -> bytes:
        """Return what the server answers to bytes, until it hangs up."""
        with self.connection() as connection:
            connection.sendall(data)
            if finish:
                connection.shutdown(socket.SHUT_WR)
            got = b""
            while part := connection.recv(1 << 16):
                got += part
            return got


@contextmanager
def serving(seconds: float, protocol: type[GuardedProtocol]) -> Iterator[Served]:
    made = Served(seconds)
    with running(made.app, http=protocol, timeout_graceful_shutdown=5) as made.running:
        yield made


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(PATIENCE, Patient) as made:
        yield made


@pytest.fixture(scope="module")
def impatient() -> Iterator[Served]:
    """A server that waits for nothing long, to be asked for what comes too late alone."""
    with serving(SHORT, Impatient) as made:
        yield made


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.running.url, trust_env=False, timeout=PATIENCE) as made:
        yield made


def said(answer: httpx.Response) -> str:
    return answer.json()["error"]["message"]


def test_a_body_arrives_as_it_was_sent(client: httpx.Client) -> None:
    sent = {
        "words": "\u00e9\ud83d\ude00 \\u0000".encode("utf-16", "surrogatepass").decode("utf-16"),
        "n": [1, 2.5, None],
    }
    assert client.post("/v1/echo", json=sent).json()["json"] == sent
    parts = (json.dumps(sent).encode()[at : at + 7] for at in range(0, 200, 7))  # chunked, without a length
    assert client.post("/v1/echo", content=parts, headers=JSON).json()["json"] == sent
    assert client.get("/v1/echo").json() == {"bytes": 0, "json": None}
    form = client.post("/v1/echo", files={"image": b"12345"}).json()
    assert form["json"] is None and form["bytes"] > 5
    assert client.post("/v1/echo").json()["bytes"] == 0


def test_the_answer_arrives_while_the_body_is_still_sent(client: httpx.Client) -> None:
    for headers, status in ((JSON, 413), ({"Content-Type": "text/plain"}, 415)):
        for _ in range(5):
            answer = client.post("/v1/echo", content=bytes(8 << 20), headers=headers)
            assert answer.status_code == status and said(answer)


def test_a_body_that_is_too_long_is_refused_by_its_claim_and_by_its_bytes(client: httpx.Client, served: Served) -> None:
    for content in (b" " * 100_001, (b" " * 1000 for _ in range(101))):
        answer = client.post("/v1/echo", content=content, headers=JSON)
        assert answer.status_code == 413 and "100,000" in said(answer)
    assert client.post("/v1/echo", content=b'"' + b"a" * 99_998 + b'"', headers=JSON).status_code == 200
    # told from its head alone, the body is not waited for
    head = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    assert b" 413 " in served.send(head % 10**15)
    assert b" 400 " in served.send(head % 10**30)[:20] or b" 413 " in served.send(head % 10**30)[:20]


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_heads_that_mean_two_things_are_refused(data: bytes, served: Served) -> None:
    assert served.send(data).startswith(b"HTTP/1.1 400 ")


def test_a_body_that_does_not_come_is_not_waited_for(impatient: Served, served: Served) -> None:
    head = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    for rest in (b"Content-Length: 50\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
        got = impatient.send(head + rest)
        assert got.startswith(b"HTTP/1.1 408 ") and b"limit of 0.5 seconds" in got
    # who hung up gets no answer
    assert served.send(head + b"Content-Length: 50\r\n\r\n{", finish=True) == b""


def test_a_head_has_a_size(served: Served) -> None:
    got = served.send(b"GET /v1/echo HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10_000)
    assert got.startswith(b"HTTP/1.1 431 ") and b"limit of 20,000" in got
    assert served.send(b"GET /" + b"a" * 100_000).startswith(b"HTTP/1.1 431 ")


def test_a_head_has_a_time(impatient: Served) -> None:
    got = impatient.send(b"GET /v1/echo HTTP/1.1\r\nHost: a\r\nX: ")
    assert got.startswith(b"HTTP/1.1 408 ") and b"limit of 0.5 seconds" in got
    assert impatient.send(b"") == b""  # a connection that nobody uses is closed
    # the clock of a head is not that of a request: one that is answered later than that is answered
    request = b"POST /v1/hold HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    threading.Timer(2 * SHORT, impatient.letting_go.set).start()
    assert impatient.send(request).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_nobody_reads_is_not_kept(impatient: Served, client: httpx.Client) -> None:
    connections = impatient.running.server.server_state.connections
    with impatient.connection() as connection:
        connection.sendall(b"GET /v1/large HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        deadline = time.monotonic() + PATIENCE
        while connections and time.monotonic() < deadline:  # it hangs up by itself
            time.sleep(0.02)
        assert not connections
    assert len(client.get("/v1/large").content) == 50 << 20  # one that is read is sent whole


def test_all_bodies_together_have_a_limit(served: Served, client: httpx.Client) -> None:
    body = b'"' + b"a" * 90_000 + b'"'
    thread = threading.Thread(
        target=lambda: httpx.post(f"{served.running.url}/v1/hold", content=body, headers=JSON, timeout=PATIENCE)
    )
    thread.start()
    try:
        assert served.held.acquire(timeout=PATIENCE)
        answer = client.post("/v1/echo", content=body, headers=JSON)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert client.post("/v1/echo", content=b"1", headers=JSON).status_code == 200
    finally:
        served.letting_go.set()
        thread.join(PATIENCE)
        served.letting_go.clear()
    assert client.post("/v1/echo", content=body, headers=JSON).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ";"},
        {"Content-Type": "application/json; charset=utf-16"}, {"Content-Type": "application/jsonp"},
        {"Content-Type": "a" * 999},
        {"Content-Type": "application/json;" + " ;" * 9000}, {**JSON, "Content-Encoding": "gzip"},
        {**JSON, "Content-Encoding": "br, gzip"},
        {**JSON, "Content-Encoding": "x"},
    ],
)  # fmt: skip
def test_bodies_of_other_kinds_are_refused(headers: dict[str, str], client: httpx.Client) -> None:
    content = gzip.compress(b"[" + b" " * 10**6 + b"]") if "Content-Encoding" in headers else b"{}"
    assert client.post("/v1/echo", content=content, headers=headers).status_code == 415


def test_json_may_say_its_charset(client: httpx.Client) -> None:
    for kind in ("application/json; charset=UTF-8", 'Application/JSON;charset="utf-8"'):
        assert client.post("/v1/echo", content=b'{"a": 1}', headers={"Content-Type": kind}).json()["json"] == {"a": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[1,]", b"", b"NaN", b'{"a": Infinity}', b"[-Infinity]", b"1e999", b"[1, -1e400]", b'{"a": 1, "a": 2}',
        b'[{"b": {"a": 1, "\\u0061": 2}}]', b'"\\ud800"', b'{"\\udfff": 1}', b'"\xed\xa0\x80"', b'"\\u0000"', b'"\xff"',
        b'\xef\xbb\xbf{}', '{"a": 1}'.encode("utf-16"), b"1" * 90_000, b"[" * 50_000, b'{"a":' * 15_000,
        b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), b"'a'", b"{} {}", b"\x00", b"[1] // all",
    ],
)  # fmt: skip
def test_json_that_readers_differ_over_is_refused(body: bytes, client: httpx.Client) -> None:
    answer = client.post("/v1/echo", content=body, headers=JSON)
    assert answer.status_code == (200 if body == b"" else 400)
    assert body == b"" or len(answer.text) < 400


def test_json_that_would_fill_the_memory_is_refused() -> None:
    for body in (b"[" + b"[]," * 100_000 + b"[]]", b"[" + b"{}," * 100_000 + b"{}]", b"[" + b"1," * 1_000_001 + b"1]"):
        with pytest.raises(Refusal) as caught:
            read_json(body)
        assert caught.value.status == 413 and "100,000" in caught.value.message
    assert len(read_json(b"[" + b"[]," * 90_000 + b"[]]")) == 90_001


def test_plain_json_is_read(client: httpx.Client) -> None:
    deep = b"[" * DEEPEST + b"]" * DEEPEST
    flat = b"[" + b",".join([b"[{}]"] * 5000) + b"]"
    for body in (deep, flat, b'"\\ud83d\\ude00"', b'"\\\\u0000"', b'"[[[[{{{{' + b"[" * 999 + b'"', b"1e300", b"true"):
        assert client.post("/v1/echo", content=body, headers=JSON).json()["json"] == json.loads(body)


def test_what_nobody_expected_tells_its_id_alone(caplog: pytest.LogCaptureFixture) -> None:
    from starlette.testclient import TestClient

    app = FastAPI()

    def fails() -> None:
        raise ValueError("/home/me/secret.png")

    app.add_api_route("/v1/fails", fails)
    app.add_api_route("/v2/fails", fails)
    install(app)
    client = TestClient(app, raise_server_exceptions=False)
    answer = client.get("/v2/fails")
    assert answer.status_code == 500 and answer.json()["id"] in caplog.text
    assert answer.json()["id"] in answer.json()["message"]
    answer = client.get("/v1/fails")
    assert answer.json()["error"]["type"] == "server_error" and "secret" not in answer.text
    assert client.head("/v1/fails").status_code == 405
