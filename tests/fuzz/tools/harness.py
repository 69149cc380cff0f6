"""Malformed inputs, one after the other, in a process that may hang, fall over, or eat the memory.

Each input ends in one of three ways, or is a fault: the right answer, a sentence that names the mistake, or a counted
skip. With the environment variable FUZZ_REPORT, a folder, every fault is also written to FUZZ_REPORT/DOOR.md.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mllm_embed.errors import MLLMEmbedError

SECONDS = 20  # that an input may take
MEMORY = 2 * 2**30  # bytes that an input may take
_FUZZERS = str(Path(__file__).parents[1])
_CHUNK = 300  # inputs a process: each starts with fresh memory
RIGHT, TOLD, SKIPPED = "right", "told", "skipped"
_SEVERAL = re.compile(r"\d+ problems in .*:\n")
_FAULTS = ("wrong", "hang", "memory", "crash", "traceback")  # the worst first


@dataclass(frozen=True)
class Case:
    """One input: what it is, in words, and what the door's judge needs to make it."""

    name: str
    what: Any = None


class Wrong(AssertionError):
    """An answer that is not right, and came without a word."""


@dataclass(frozen=True)
class Told:
    """The sentence in which a call ended."""

    sentence: str


def attempt(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or `Told`. Raise Wrong for a mistake that is told in more, or less, than one line."""
    try:
        return call()
    except (MLLMEmbedError, OSError) as error:
        sentence = str(error)
        # a raw OSError of a library is at times empty; of a user's folder all problems are listed, one a line
        lines = 1 if _SEVERAL.match(sentence) else len(sentence.splitlines())
        if not sentence.strip() or lines > 1 or sentence.endswith(": None"):
            raise AssertionError(f"no sentence: {type(error).__name__}({sentence[:300]!r})") from error
        return Told(sentence)


def expect(right: bool, answer: str) -> None:
    """Raise Wrong, with what the door answered, where that is not right."""
    if not right:
        raise Wrong(answer)


def sift(door: str, cases: Sequence[Case], judge: Callable[[Case], str]) -> None:
    """Give every case to the judge, which returns RIGHT, TOLD or SKIPPED; fail with a list of the faults.

    Args:
        door: what is fuzzed.
        cases: the inputs.
        judge: makes the input and looks at what comes of it; runs in forked processes.
    """
    faults: list[tuple[str, str, str]] = []
    ends: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    at = 0
    while at < len(cases):
        at = _process(cases, at, judge, ends, faults, seconds)
    faults.sort(key=lambda fault: _FAULTS.index(fault[0]))
    lines = [f"- **{kind}** {name}: {detail}" for kind, name, detail in faults]
    longest = max(seconds, key=lambda name: seconds[name])
    head = f"{door}: {len(cases)} inputs, {dict(ends)}, {len(faults)} faults"
    head += f"; {sum(seconds.values()):.1f} s, at most {seconds[longest]:.1f} s ({longest})"
    if "FUZZ_REPORT" in os.environ:
        Path(os.environ["FUZZ_REPORT"], f"{door}.md").write_text("\n".join([f"# {head}", *lines, ""]))
    print(head, file=sys.stderr)
    assert not faults, "\n".join([head, *lines])


def _process(
    cases: Sequence[Case],
    start: int,
    judge: Callable[[Case], str],
    ends: Counter[str],
    faults: list[tuple[str, str, str]],
    seconds: dict[str, float],
) -> int:
    """Judge cases from `start` on in one process, and fill in how they end; return the first still to be judged."""
    near, far = multiprocessing.get_context("fork").Pipe(duplex=False)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        near.close()
        _child(cases[start : start + _CHUNK], judge, far)
    far.close()
    at = start
    try:
        while at < min(start + _CHUNK, len(cases)):
            began = time.perf_counter()
            answered = near.poll(SECONDS)
            seconds[cases[at].name] = time.perf_counter() - began
            if not answered:
                os.kill(child, signal.SIGKILL)
                faults.append(("hang", cases[at].name, f"no answer in {SECONDS} s"))
                return at + 1
            try:
                kind, detail = near.recv()
            except EOFError:
                faults.append(("crash", cases[at].name, "the process ended"))
                return at + 1
            if kind in _FAULTS:
                faults.append((kind, cases[at].name, detail))
            else:
                ends[kind] += 1
            at += 1
        return at
    finally:
        near.close()
        os.waitpid(child, 0)


def _child(cases: Sequence[Case], judge: Callable[[Case], str], out: Connection) -> None:
    """Judge cases, send how each ended, and leave without what a test's process does at its end."""
    try:
        for case in cases:
            out.send(_judged(case, judge))
    finally:
        os._exit(0)


def _judged(case: Case, judge: Callable[[Case], str]) -> tuple[str, str]:
    """Return how a case ended: a verdict, or a fault with what is known of it."""
    before = _memory("VmRSS")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + MEMORY, hard))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    try:
        verdict, detail = judge(case), ""
    except Wrong as error:
        verdict, detail = "wrong", str(error)
    except MemoryError:
        verdict, detail = "memory", "more than 2 GiB"
    except BaseException as error:  # whatever escapes is what is looked for
        verdict, detail = "traceback", f"{type(error).__name__}: {str(error)[:300]} at {_place(error)}"
    peak = _memory("VmHWM") - before
    if peak > MEMORY:
        verdict, detail = "memory", f"{peak / 2**30:.1f} GiB, then {verdict} {detail}"
    return verdict, " ".join(detail.split())


def _memory(what: str) -> int:
    """Return a figure of this process in bytes, by its name in /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise KeyError(what)


def _place(error: BaseException) -> str:
    """Return the last place of ours, and the last of all, of a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame for frame in frames if "site-packages" not in frame.filename and not frame.filename.startswith(_FUZZERS)
    ]
    places = dict.fromkeys(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*ours[-1:], *frames[-1:]))
    return " < ".join(places)


def plain(value: Any) -> str:
    """Return a value as text to compare, in which numbers that are no numbers equal themselves."""
    return json.dumps(value, sort_keys=True, default=repr)
