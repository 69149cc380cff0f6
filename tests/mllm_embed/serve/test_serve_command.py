"""`mllm-embed serve`, from its first line to its exit code."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mllm_embed import MLLMEmbedder, Query
from mllm_embed.cli import main
from mllm_embed.errors import ConfigError
from mllm_embed.store.vector_store import VectorStore

PATIENCE = 300.0  # seconds, on a machine with much else to do
SLOW = """
import sys, threading
from pathlib import Path
from mllm_embed.serve.access import Access
from mllm_embed.serve.limits import Limits
from mllm_embed.serve.operations.server import Plan, listen, serve

def load(start):
    start.progress.doing = "reading a very large model"
    threading.Event().wait()

bound = listen("127.0.0.1", 0)
print(f"at http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
serve(Plan(load, Access(), Limits(seconds=5)), bound, print)
"""


class Process:
    """A server's process, and what it writes."""

    def __init__(self, command: list[str], folder: Path):
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.popen = subprocess.Popen([sys.executable, *command], stdout=out, stderr=err)
        self.wait_for(lambda: " at http" in f" {self.out.read_text()}")
        found = re.search(r"at (http://[0-9.]+:\d+)", self.out.read_text())
        assert found is not None
        self.url = found[1]

    def wait_for(self, holds: Callable[[], Any]) -> None:
        """Wait until something holds; fail where the process ends before, or nothing comes of it."""
        until = time.monotonic() + PATIENCE
        while not holds():
            assert self.popen.poll() is None, self.err.read_text()
            assert time.monotonic() < until, self.err.read_text()
            time.sleep(0.05)

    def get(self, path: str) -> httpx.Response | None:
        """What a path answers; None where nobody listens."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=PATIENCE)
        except httpx.TransportError:
            return None

    def is_at(self, path: str, status: int) -> bool:
        """Whether a path answers with a status now."""
        answer = self.get(path)
        return answer is not None and answer.status_code == status

    def events(self) -> list[str]:
        """What happened, by the log."""
        return [json.loads(line)["event"] for line in self.err.read_text().splitlines() if line.startswith("{")]

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.popen.send_signal(sig)
        return self.popen.wait(PATIENCE)


@contextmanager
def served(command: list[str], folder: Path) -> Iterator[Process]:
    """A server's process, which is gone afterwards."""
    folder.mkdir()
    process = Process(command, folder)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait()


@pytest.fixture(scope="module")
def store(tiny_llava: Path, _data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "store"
    options = ["--model", str(tiny_llava), "--dtype", "float32", "--device", "cpu"]
    assert main(["encode", str(_data), "--output", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def command(tiny_llava: Path, store: Path) -> list[str]:
    options = ["--model", str(tiny_llava), "--dtype", "float32", "--device", "cpu", "--port", "0", "--timeout", "30"]
    return ["-m", "mllm_embed.cli", "serve", str(store), *options]


def test_it_serves_from_start_to_end(command: list[str], store: Path, tiny_llava: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("one-key-of-some-length\n")
    key.chmod(0o600)
    options = ["--key-file", str(key), "--served-name", "tiny", "--writable"]
    with served([*command, *options], tmp_path / "run") as process:
        process.wait_for(lambda: process.is_at("/ready", 200))
        said = process.out.read_text()
        assert f"{process.url}/v1/embeddings" in said and "tiny" in said and "rows" in said
        assert str(tiny_llava) not in said and "one-key" not in said

        assert process.is_at("/v1/models", 401)
        key_header = {"Authorization": "Bearer one-key-of-some-length"}
        client = httpx.Client(base_url=process.url, headers=key_header, timeout=PATIENCE)
        [vector] = client.post("/v1/embeddings", json={"input": "a red shoe", "model": "tiny"}).json()["data"]
        embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")
        np.testing.assert_allclose(vector["embedding"], embedder.encode(["a red shoe"])[0], atol=1e-5)

        vectors = VectorStore.open(store)
        scores = vectors.rows(0, len(vectors)) @ embedder.encode([Query(instruction="blue")])[0]
        hits = client.post("/v1/search", json={"instruction": "blue", "k": 3}).json()["hits"]
        np.testing.assert_allclose([hit["score"] for hit in hits], sorted(scores, reverse=True)[:3], atol=1e-5)
        assert client.get(hits[0]["picture"]).headers["content-type"] == "image/jpeg"

        row = {"id": "shoe", "text": "a red shoe"}
        assert client.post("/v1/gallery/rows", json={"rows": [row]}).json()["rows"] == len(vectors) + 1
        assert client.post("/v1/search", json={"instruction": "a red shoe"}).json()["hits"][0]["id"] == "shoe"
        assert client.request("DELETE", "/v1/gallery/rows", json={"ids": ["shoe"]}).status_code == 200

        searches = 'mllm_embed_requests_total{method="POST",path="/v1/search",status="200"} 2.0'
        process.wait_for(lambda: searches in client.get("/metrics").text)
        assert "mllm_embed_inputs_total 4.0" in client.get("/metrics").text
        _finishes_what_it_took(process)
    assert "one-key" not in process.err.read_text()


def _finishes_what_it_took(process: Process) -> None:
    """Stop a server that has half of a request, give it the other half, and see that it is answered."""
    body = json.dumps({"input": "a red shoe"}).encode()
    host, port = process.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer one-key-of-some-length\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:10])
        begun = "mllm_embed_requests_running 2.0"
        key = {"Authorization": "Bearer one-key-of-some-length"}
        process.wait_for(lambda: begun in httpx.get(f"{process.url}/metrics", headers=key, timeout=PATIENCE).text)
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for(lambda: "stopping" in process.events())
        process.wait_for(lambda: process.get("/health") is None)
        connection.sendall(body[10:])
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 200") and b'"embedding"' in answer
    assert process.popen.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("options", "terminal", "found"),
    [
        ([], False, "base json"),
        ([], True, "base text"),
        (["--log", "json"], True, "base json"),
        # another adapter makes other vectors, so that it has another name
        (["--adapter", "red/instructions"], False, "base+instructions json"),
    ],
)
def test_what_the_model_is_called_and_whom_the_log_is_for(
    options: list[str],
    terminal: bool,
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end(plan: Any, *rest: Any) -> None:
        raise ConfigError(f"{plan.load.model_name} {plan.log}")

    (tmp_path / "red" / "instructions").mkdir(parents=True)
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mllm_embed.serve.operations.server.serve", end)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert main(["serve", "--model", "base", *options, "--port", "0"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {found}"


def test_it_answers_while_it_loads_and_stops_then_too(tmp_path: Path) -> None:
    with served(["-c", SLOW], tmp_path / "run") as process:
        process.wait_for(lambda: process.is_at("/health", 200))
        answer = process.get("/ready")
        assert answer is not None
        assert (answer.status_code, answer.json()["status"]) == (503, "reading a very large model")
        assert process.is_at("/v1/models", 503)
        assert process.stop(signal.SIGINT) == 0


@pytest.mark.slow
def test_workers_share_a_port_and_one_that_dies_is_started_again(command: list[str], tmp_path: Path) -> None:
    with served([*command, "--workers", "2"], tmp_path / "run") as process:
        process.wait_for(lambda: process.is_at("/ready", 200))
        for number in range(20):  # each over a connection of its own, so that both are asked
            answer = httpx.post(f"{process.url}/v1/embeddings", json={"input": f"shoe {number}"}, timeout=PATIENCE)
            assert answer.status_code == 200
        counted = process.get("/metrics")
        assert counted is not None and "mllm_embed_inputs_total 20.0" in counted.text

        children = _children(process.popen.pid)
        ready = process.events().count("ready")
        os.kill(children[0], signal.SIGKILL)
        process.wait_for(lambda: process.events().count("ready") > ready)
        assert process.is_at("/ready", 200)
        counted = process.get("/metrics")
        assert counted is not None and "mllm_embed_inputs_total 20.0" in counted.text, "a worker took its counts along"
        assert process.stop() == 0
        assert not any(os.path.exists(f"/proc/{child}") for child in _children(process.popen.pid))


def _children(parent: int) -> list[int]:
    """The worker processes of a server."""
    import psutil

    if not psutil.pid_exists(parent):
        return []
    found = psutil.Process(parent).children()
    return [child.pid for child in found if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--key-file"),
        (["--host", "127.0.0.300", "--no-key"], "no address"),
        (["--port", "70000"], "--port"),
        (["--workers", "0"], "--workers"),
        (["--timeout", "0"], "--timeout"),
        (["--timeout", "inf"], "--timeout"),
        (["--timeout", "1e300"], "--timeout"),
        (["--max-body-mib", "-4"], "--max-body-mib"),
        (["--max-pixels", "999999999999"], "pixels"),
        (["--max-wait", "-1"], "--max-wait"),
        (["--key-file", "no-such-file"], "no-such-file"),
        (["--allow-host", "http://a/b"], "http://a/b"),
        (["--known-as", "http://search.example.org"], "without http://"),
        (["--known-as", "search.example.org:8000"], "without http://"),
        (["--writable", "--workers", "2"], "--workers"),
        (["--pictures", "kept"], "--writable"),
        (["--pictures", __file__, "--writable"], "is a file"),
        (["--served-name", "a\nb"], "--served-name"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_looked_for(
    options: list[str], said: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(store), "--model", "no/such-model", *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and said in error and "no/such-model" not in error


def test_a_port_that_is_taken_and_galleries_that_cannot_be_served(
    tmp_path: Path, _data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["serve", "--model", "no/such-model", *words]) == 2
        return capsys.readouterr().err

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}" in refused("--port", port)
    assert "is missing" in refused(str(tmp_path / "nowhere"))
    assert "mllm-embed encode" in refused(str(_data), "--workers", "2")
    assert "one process at a time" in refused(f"qdrant:{tmp_path}/photos", "--workers", "2")
    assert "mllm-embed encode" in refused(str(_data), "--writable")
    assert "GALLERY" in refused("--writable")


@pytest.fixture
def process_as_before() -> Iterator[None]:
    """A server has its process for itself: undo what it does to it."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    loggers = [logging.getLogger(name) for name in ("", "uvicorn.error", "mllm_embed.serve")]
    kept = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, level, handlers in kept:
        logger.setLevel(level)
        logger.handlers[:] = handlers
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("process_as_before")
def test_a_model_that_cannot_be_loaded_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model", str(tmp_path), "--port", "0", "--log", "text"]) == 2
    assert "error: " in capsys.readouterr().err
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(timer.finished.is_set() for timer in timers), "a process that lives on is ended a minute later"
