"""Let `mllm-embed serve` take 10,000 requests, one in ten of them malformed, and kill it in the middle.

    python scripts/serving/hammer_serve.py --requests 10000

The embedded model serves a store of scenes in float32, behind a key. Clients ask for embeddings of words, pictures, and
pictures with words, and search; in between come broken JSON, wrong types, pictures that are none, too much at once,
unknown ids, wrong keys, and connections that end in the middle. After half of the requests the server is killed
(SIGKILL) and started again; at the end it is told to stop (SIGTERM) while requests are on their way.

Each request must end in time; each good answer must be what the model computes alone in this process, within 1e-5; each
bad one must be refused with the status that it deserves; the server's memory may not grow by more than 5 % from its
2,000th request to its last; what was taken before SIGTERM must be answered. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from asks import KEY, Ask, bad_asks, good_asks
from raw_http import Answer, Connection, request

from mllm_embed import MLLMEmbedder
from mllm_embed.data.picture_source import picture_folder
from mllm_embed.store.vector_store import VectorStore

ROOT = Path(__file__).resolve().parents[2]
MODEL = ["--model", "scripts/assets/base", "--adapter", "scripts/assets/adapters/instructions", "--dtype", "float32"]
_FLAT = 1.05
_WARM = 2000  # requests after which a server's memory should be what it needs
_EVERY = 250
_POOL = 240  # different good requests
_IN_FLIGHT = 16  # that are on their way when the server is told to stop


class Served:
    """The server's process, its answers, and its memory in MiB after so many of them."""

    def __init__(self, command: list[str], port: int, log: Path):
        """Start it."""
        self.port, self.answers = port, 0
        self.memory: dict[int, float] = {}
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)
        self._measured = psutil.Process(self.process.pid)

    async def ready(self) -> None:
        """Wait until it is ready. Raises SystemExit where it ends before."""
        while self.process.poll() is None:
            connection = Connection("127.0.0.1", self.port)
            try:
                if (await connection.ask(request("/ready", method="GET"))).status == 200:
                    return
            except (OSError, EOFError):
                pass  # it does not listen yet
            finally:
                connection.close()
            await asyncio.sleep(0.2)
        raise SystemExit(f"the server ended with code {self.process.returncode}")

    def count(self) -> None:
        """Count an answer, and look at the memory now and then."""
        self.answers += 1
        if self.answers % _EVERY == 0:
            self.memory[self.answers] = self._measured.memory_info().rss / 2**20

    def growth(self) -> float:
        """Return its memory at the last look, as a share of that at the 2,000th answer, or at the middle one."""
        marks = sorted(self.memory)
        start = _WARM if _WARM in marks else marks[len(marks) // 2]
        return self.memory[marks[-1]] / self.memory[start]


@dataclass
class Tally:
    """What came of the requests."""

    asked: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def take(self, ask: Ask, outcome: str, wrong: str, seconds: float) -> None:
        """Take note of a request that has ended."""
        self.asked[ask.kind] += 1
        self.statuses.setdefault(ask.kind, Counter())[outcome] += 1
        self.seconds.append(seconds)
        if wrong:
            self.wrong.append(f"{ask.kind}: {wrong}")


class Hammer:
    """Sends requests, and looks at what comes of them."""

    def __init__(self, asks: Iterator[Ask], patience: float):
        """Send these; each must end within `patience` seconds."""
        self.asks, self.patience, self.tally = asks, patience, Tally()

    async def strike(self, served: Served, count: int, connections: int) -> None:
        """Send so many requests over so many connections, and wait for what comes of them."""
        asks = iter(list(itertools.islice(self.asks, count)))
        await asyncio.gather(*(self._work(served, asks) for _ in range(connections)))

    async def _work(self, served: Served, asks: Iterator[Ask]) -> None:
        connection = Connection("127.0.0.1", served.port)
        for ask in asks:
            await self._one(served, connection, ask)
        connection.close()

    async def _one(self, served: Served, connection: Connection, ask: Ask) -> None:
        began = time.monotonic()
        try:
            outcome, wrong = await asyncio.wait_for(_outcome(connection, ask), self.patience)
        except asyncio.TimeoutError:
            outcome, wrong = "hung", f"nothing came within {self.patience:g} s"
            connection.close()
        self.tally.take(ask, outcome, wrong, time.monotonic() - began)
        served.count()

    async def until_killed(self, served: Served, asks: Sequence[Ask], sig: signal.Signals) -> tuple[int, int, int]:
        """Send requests at once, and a signal while they are on their way.

        Return how many were answered, how many were not, and the code that the server ended with.
        """
        tasks = [asyncio.create_task(_outcome(Connection("127.0.0.1", served.port), ask)) for ask in asks]
        await asyncio.sleep(0.05)
        served.process.send_signal(sig)
        found = await asyncio.gather(*(asyncio.wait_for(task, self.patience) for task in tasks), return_exceptions=True)
        code = await asyncio.to_thread(served.process.wait, self.patience)
        lost = [error for error in found if isinstance(error, BaseException)]
        self.tally.wrong += [f"{sig.name}: a request hung" for error in lost if isinstance(error, TimeoutError)]
        answered = [outcome for outcome in found if not isinstance(outcome, BaseException)]
        self.tally.wrong += [f"{sig.name}: {wrong}" for _, wrong in answered if wrong]
        return len(answered), len(lost), code


async def _outcome(connection: Connection, ask: Ask) -> tuple[str, str]:
    """Return what came of a request, and what is wrong with that."""
    if not ask.statuses:
        await connection.leave(ask.data)
        return "left", ""
    try:
        answer: Answer = await connection.ask(ask.data)
    except (OSError, EOFError):
        answer = await connection.ask(ask.data)  # a connection that was kept may have been closed meanwhile
    if answer.status not in ask.statuses:
        return str(answer.status), f"{answer.status} {answer.body[:200]!r}, not {' or '.join(map(str, ask.statuses))}"
    return str(answer.status), ask.wrong(answer)


def mixed(good: Sequence[Ask], bad: Iterator[Ask], rng: random.Random, share: float) -> Iterator[Ask]:
    """Yield requests without end, so many of them bad."""
    while True:
        yield next(bad) if rng.random() < share else rng.choice(good)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def make_inputs(output: Path, seed: int) -> tuple[list[Ask], list[Path], Path]:
    """Write a store of scenes, and return good requests, pictures, and where the store is."""
    scenes, store = output / "scenes", output / "store"
    draw = ["--pairs", "8", "--triplets", "8", "--references", "4"]
    subprocess.run([sys.executable, "scripts/make_scenes.py", "--output", scenes, *draw], check=True, cwd=ROOT)
    command = [sys.executable, "-m", "mllm_embed.cli", "encode", scenes / "unseen", "--output", store, *MODEL]
    subprocess.run(command, check=True, cwd=ROOT)
    torch.set_num_threads(1)  # one input at a time has little to share out
    embedder = MLLMEmbedder.from_pretrained(ROOT / MODEL[1], adapter=ROOT / MODEL[3], dtype="float32").merge_adapter()
    source, vectors = picture_folder(scenes / "unseen"), VectorStore.open(store)
    pictures = dict(zip(source.ids, source.files, strict=True))
    asks = good_asks(embedder, pictures, vectors.rows(0, len(vectors)), _POOL, seed)
    return asks, list(pictures.values()), store


def report(tally: Tally, lives: Sequence[Served], ends: Sequence[str]) -> str:
    """Return the tables: what was asked and came back, and the memory of each life."""
    width = max(map(len, tally.asked))
    lines = [f"{'request'.ljust(width)}  times  outcome"]
    for kind, count in tally.asked.most_common():
        outcomes = ", ".join(f"{name} {times}" for name, times in tally.statuses[kind].most_common())
        lines.append(f"{kind.ljust(width)}  {count:5d}  {outcomes}")
    seconds = sorted(tally.seconds)
    lines.append(
        f"\n{len(seconds):,} requests; the slowest took {seconds[-1]:.2f} s, half {seconds[len(seconds) // 2]:.3f}"
    )
    for number, served in enumerate(lives, 1):
        marks = [mark for mark in sorted(served.memory) if mark % 1000 == 0 or mark == max(served.memory)]
        memory = ", ".join(f"{mark:,}: {served.memory[mark]:.0f}" for mark in marks)
        lines.append(f"life {number}: MiB after so many requests {memory}; grown to {served.growth():.3f}")
    return "\n".join([*lines, *ends])


async def hammer(options: argparse.Namespace) -> int:
    """Do all of it. Return the exit code."""
    rng = random.Random(options.seed)
    good, pictures, store = make_inputs(options.output, options.seed)
    key = options.output / "key.txt"
    key.write_text(KEY)
    key.chmod(0o600)
    port = free_port()
    command = [sys.executable, "-m", "mllm_embed.cli", "serve", str(store), *MODEL, "--port", str(port)]
    command += ["--key-file", str(key), "--timeout", "30"]
    run = Hammer(mixed(good, bad_asks(rng, good, pictures), rng, options.bad), options.patience)
    lives, ends = [], []
    for sig in (signal.SIGKILL, signal.SIGTERM):
        served = Served(command, port, options.output / "server.log")
        lives.append(served)
        await served.ready()
        await run.strike(served, options.requests // 2, options.connections)
        answered, lost, code = await run.until_killed(served, rng.sample(good, _IN_FLIGHT), sig)
        ends.append(f"{sig.name} with {_IN_FLIGHT} on their way: {answered} answered, {lost} cut off, exit code {code}")
        if sig == signal.SIGTERM and (lost or code):
            run.tally.wrong.append(ends[-1])
        if served.growth() > _FLAT:
            run.tally.wrong.append(f"memory grew to {served.growth():.3f}")
    sys.stdout.write(f"{report(run.tally, lives, ends)}\n\n")
    wrong = Counter(run.tally.wrong)
    sys.stdout.write("".join(f"{times} x {what}\n" for what, times in wrong.most_common(20)) or "nothing is wrong\n")
    return int(bool(wrong))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="in all (default 10000)")
    parser.add_argument("--bad", type=float, default=0.1, help="share of malformed ones (default 0.1)")
    parser.add_argument("--connections", type=int, default=16, help="at once (default 16)")
    parser.add_argument("--patience", type=float, default=40.0, help="seconds for each (default 40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/hammer"), help="a folder that is replaced")
    options = parser.parse_args()
    options.output = options.output.resolve()
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    return asyncio.run(hammer(options))


if __name__ == "__main__":
    raise SystemExit(main())
