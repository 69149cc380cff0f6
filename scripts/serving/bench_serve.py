"""What the queue of `mllm-embed serve` gains, and what HTTP costs, in one run on one machine.

    python scripts/make_scenes.py --output runs/demo/data
    python scripts/serving/bench_serve.py runs/demo/data/unseen

Composed queries, each with a picture of its own, go one a request to POST /v1/embeddings: by one client after the other
and by 32 at once, to this server and to the one that people write for themselves (plain_server.py: FastAPI around
`SentenceTransformer.encode`), in turns, with the same bodies and the same merged weights. Then they come by chance at
70 % of what 32 clients got, and one by one in turns with the same query in process. load.py is the client.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed import MLLMEmbedder, Query

ASSETS = Path(__file__).parents[1] / "assets"
HERE = Path(__file__).parent
PATH = "/v1/embeddings"
STARTING = 120  # seconds
REST = 0.02  # seconds between the two: threads of a model spin for some milliseconds after their last work
WARM = 64  # requests before the first that is timed


@dataclass(frozen=True)
class Load:
    """What came of a load."""

    rate: float
    seconds: list[float]
    refused: int

    def ms(self, share: float) -> float:
        """Return the milliseconds within which this share of the requests was answered."""
        return 1000 * float(np.quantile(self.seconds, share))


def main() -> int:
    """Run the command line."""
    args = _arguments()
    queries = _queries(args.folder)
    with ExitStack() as within:
        place = Path(within.enter_context(tempfile.TemporaryDirectory()))
        adapted = MLLMEmbedder.from_pretrained(args.model, adapter=args.adapter, dtype=args.dtype, device="cpu")
        adapted.save_pretrained(place / "merged", merge=True)
        embedder = MLLMEmbedder.from_pretrained(place / "merged", device="cpu")
        bodies = place / "bodies.jsonl"
        bodies.write_bytes(b"\n".join(map(_body, queries)))
        command = ["-m", "mllm_embed.cli", "serve", "--model", place / "merged", "--max-wait", args.max_wait, "--port"]
        ours = within.enter_context(_server(command, place / "ours.log"))
        plain = within.enter_context(_server([HERE / "plain_server.py", place / "merged"], place / "plain.log"))
        runs: dict[str, list[Load]] = {name: [] for name in ("one", "all", "plain one", "plain all")}
        for address in (ours, plain):
            _load(address, bodies, WARM, "--clients", args.clients)
        for _ in range(args.rounds):
            runs["one"].append(_load(ours, bodies, args.requests // 4, "--clients", 1))
            runs["all"].append(_load(ours, bodies, args.requests, "--clients", args.clients))
            runs["plain one"].append(_load(plain, bodies, args.requests // 8, "--clients", 1))
            runs["plain all"].append(_load(plain, bodies, args.requests // 2, "--clients", args.clients))
        top = _middle(run.rate for run in runs["all"])
        random = [_load(ours, bodies, args.requests, "--rate", 0.7 * top) for _ in range(args.rounds)]
        alone, through, error = _in_turns(ours, embedder, queries[: args.requests // 4])
        cosine = _least_cosine(plain, embedder, queries[:16])
    sys.stdout.write(_table(runs, random, args.clients))
    sys.stdout.write(_goals(runs, random, alone, through, args.clients))
    sys.stdout.write(f"\nlargest difference of a vector from the one in process: {error:.1e} ({args.dtype}); ")
    sys.stdout.write(f"least cosine of FastAPI around encode to it: {cosine:.4f}\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with a benchmark.json")
    parser.add_argument("--model", default=ASSETS / "base", help="default: the embedded one")
    parser.add_argument("--adapter", default=ASSETS / "adapters" / "instructions", help="default: the embedded one")
    parser.add_argument("--dtype", default="bfloat16", help="of the weights (default bfloat16)")
    parser.add_argument("--clients", type=int, default=32, help="at once (default 32)")
    parser.add_argument("--requests", type=int, default=640, help="of a round (default 640)")
    parser.add_argument("--rounds", type=int, default=3, help="default 3; figures are medians")
    parser.add_argument("--max-wait", type=float, default=2.0, help="milliseconds, as of mllm-embed serve (default 2)")
    return parser.parse_args()


def _queries(folder: Path) -> list[Query]:
    """Return queries with each a picture of its own, of the gallery."""
    suite = json.loads((folder / "benchmark.json").read_text())
    words = [query["instruction"] for query in suite["queries"]]
    pictures = [folder / row["image"] for row in suite["gallery"]]
    return [Query(path.read_bytes(), words[at % len(words)]) for at, path in enumerate(pictures)]


def _body(query: Query) -> bytes:
    picture = base64.b64encode(query.images[0]).decode()
    return json.dumps(
        {"input": [{"image": f"data:image/jpeg;base64,{picture}", "instruction": query.instruction}]}
    ).encode()


@contextmanager
def _server(command: list[Any], log: Path) -> Iterator[str]:
    """Start a server by a command of Python's, the port behind it, and give its address when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as said:
        process = subprocess.Popen([sys.executable, *map(str, command), str(port)], stdout=said, stderr=said)
    try:
        _wait(port, process, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    started = time.monotonic()
    while process.poll() is None and time.monotonic() - started < STARTING:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            if connection.getresponse().status != 503:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


def _load(address: str, bodies: Path, count: int, *how: Any) -> Load:
    """Load a server from another process."""
    command = [sys.executable, HERE / "load.py", address, PATH, bodies, "--requests", count, *how]
    said = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout)
    return Load(count / said["wall"], said["seconds"], said["refused"])


def _in_turns(address: str, embedder: MLLMEmbedder, queries: list[Query]) -> tuple[list[float], list[float], float]:
    """Return seconds of each query in process and through the server, and the largest difference of their vectors."""
    connection = http.client.HTTPConnection(address)
    alone, through, error = [], [], 0.0
    for query in queries:
        body = _body(query)
        time.sleep(REST)
        started = time.perf_counter()
        here = embedder.encode([query], show_progress=False)[0]
        alone.append(time.perf_counter() - started)
        time.sleep(REST)
        started = time.perf_counter()
        said = _posted(connection, body)
        through.append(time.perf_counter() - started)
        error = max(error, float(np.abs(_vector(said) - here).max()))
    return alone, through, error


def _posted(connection: http.client.HTTPConnection, body: bytes) -> bytes:
    connection.request("POST", PATH, body, {"Content-Type": "application/json"})
    return connection.getresponse().read()


def _vector(said: bytes) -> np.ndarray:
    return np.array(json.loads(said)["data"][0]["embedding"], np.float32)


def _least_cosine(address: str, embedder: MLLMEmbedder, queries: list[Query]) -> float:
    """Return how near the vectors of a server are to those in process, to show that both do the same work."""
    connection = http.client.HTTPConnection(address)
    there = np.stack([_vector(_posted(connection, _body(query))) for query in queries])
    return float((there * embedder.encode(queries, show_progress=False)).sum(1).min())


def _middle(values: Iterator[float]) -> float:
    return statistics.median(values)


def _row(name: str, runs: list[Load]) -> str:
    middles = (_middle(run.ms(share) for run in runs) for share in (0.5, 0.99))
    figures = [f"{_middle(run.rate for run in runs):.0f}", *(f"{ms:.1f}" for ms in middles)]
    return f"| {name} | {' | '.join(figures)} | {sum(run.refused for run in runs)} |\n"


def _table(runs: dict[str, list[Load]], random: list[Load], clients: int) -> str:
    names = {
        "one": "mllm-embed serve, one client",
        "all": f"mllm-embed serve, {clients} clients",
        "plain one": "SentenceTransformer in FastAPI, one client",
        "plain all": f"SentenceTransformer in FastAPI, {clients} clients",
    }
    lines = ["| | requests a second | p50 ms | p99 ms | refused |\n| --- | --- | --- | --- | --- |\n"]
    lines += [_row(names[name], found) for name, found in runs.items()]
    return "".join([*lines, _row("mllm-embed serve, by chance, at 70 % of that", random)])


def _goals(
    runs: dict[str, list[Load]], random: list[Load], alone: list[float], through: list[float], clients: int
) -> str:
    def ratio(of: str, to: str) -> float:
        return _middle(a.rate / b.rate for a, b in zip(runs[of], runs[to], strict=True))

    own, served = (1000 * statistics.median(seconds) for seconds in (alone, through))
    tail = _middle(run.ms(0.99) / run.ms(0.5) for run in random)
    rows = [
        (f"{clients} clients against one", "at least 3 x", f"{ratio('all', 'one'):.2f} x"),
        (f"{clients} clients against FastAPI around encode", "at least 2 x", f"{ratio('all', 'plain all'):.2f} x"),
        ("one query alone, more than in process", "at most 5 ms", f"{served - own:.1f} ms ({own:.1f} to {served:.1f})"),
        ("p99 at 70 % load", "under 3 x p50", f"{tail:.2f} x"),
    ]
    lines = ["\n| | goal | measured |\n| --- | --- | --- |\n", *(f"| {a} | {b} | {c} |\n" for a, b, c in rows)]
    threads = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    return "".join([*lines, f"\n{os.cpu_count()} cores, threads of a model: {threads}\n"])


if __name__ == "__main__":
    raise SystemExit(main())
