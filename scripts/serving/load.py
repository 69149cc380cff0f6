"""Send requests to a server, and write down how long each took: the client of bench_serve.py, a process of its own.

    python scripts/serving/load.py 127.0.0.1:8000 /v1/embeddings bodies.jsonl --clients 32 --requests 960
    python scripts/serving/load.py 127.0.0.1:8000 /v1/embeddings bodies.jsonl --rate 150 --requests 2000

Each line of the file is a body. With --clients, so many connections send one request after the other; with --rate,
requests come at random (Poisson), so many a second, whether those before are answered or not, and each is timed from
when it was to come. The requests are bytes (raw_http.py), since httpx would take a share of two cores that
the server then lacks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from raw_http import Connection


def requests_of(address: str, path: str, bodies: list[bytes]) -> Iterator[bytes]:
    """Yield the requests that post the bodies, over and over."""
    head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: "
    return cycle([head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies])


def _connection(address: str) -> Connection:
    host, port = address.rsplit(":", 1)
    return Connection(host, int(port))


async def in_turns(address: str, requests: Iterator[bytes], clients: int, count: int) -> list[tuple[float, int]]:
    """Return seconds and status of `count` requests by so many clients, each of which waits for its answers."""
    left = iter(range(count))
    results: list[tuple[float, int]] = []

    async def client(connection: Connection) -> None:
        for _ in left:
            started = time.perf_counter()
            status = (await connection.ask(next(requests))).status
            results.append((time.perf_counter() - started, status))

    await asyncio.gather(*[client(_connection(address)) for _ in range(clients)])
    return results


async def at_random(address: str, requests: Iterator[bytes], rate: float, count: int) -> list[tuple[float, int]]:
    """Return seconds and status of `count` requests that come by chance, `rate` a second."""
    chance, due = random.Random(0), time.perf_counter()
    idle: list[Connection] = []
    results: list[tuple[float, int]] = []

    async def one(due: float) -> None:
        connection = idle.pop() if idle else _connection(address)
        status = (await connection.ask(next(requests))).status
        results.append((time.perf_counter() - due, status))
        idle.append(connection)

    tasks = []
    for _ in range(count):
        due += chance.expovariate(rate)
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return results


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="host:port")
    parser.add_argument("path", help="of the requests")
    parser.add_argument("bodies", type=Path, help="a file with a body a line")
    parser.add_argument("--clients", type=int, default=1, help="connections (default 1)")
    parser.add_argument("--rate", type=float, help="requests a second, come what may")
    parser.add_argument("--requests", type=int, default=100, help="how many (default 100)")
    args = parser.parse_args()
    requests = requests_of(args.address, args.path, args.bodies.read_bytes().splitlines())
    started, busy = time.perf_counter(), time.process_time()
    if args.rate is None:
        results = asyncio.run(in_turns(args.address, requests, args.clients, args.requests))
    else:
        results = asyncio.run(at_random(args.address, requests, args.rate, args.requests))
    seconds = [taken for taken, _ in results]
    refused = sum(status != 200 for _, status in results)
    took = {"wall": time.perf_counter() - started, "busy": time.process_time() - busy}
    sys.stdout.write(json.dumps({**took, "refused": refused, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
