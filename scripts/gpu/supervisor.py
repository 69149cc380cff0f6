"""The process that has others measure, and writes down what they say: one that hangs, dies or fails costs a sentence.

It imports nothing that touches a GPU.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "bench_gpu: "
"""What a line begins with that is for the supervisor."""
_LONGEST = 300  # characters of another's last words


@dataclass
class Found:
    """What is known of a section.

    Args:
        rows: measured so far.
        seconds: that it took; None where it did not come to its end.
        error: why it did not, in a sentence.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float | None = None
    error: str | None = None


class Supervisor:
    """Has sections measured by a command, in one process as long as that is well.

    Args:
        command: that measures the sections whose names are put behind it, and prints lines behind MARK.
        budgets: by section, in their order, the seconds that it may take.
        start: seconds that a process may take before its first line.
        total: seconds for everything.
        told: called after each line with what is known.
    """

    def __init__(
        self,
        command: Sequence[str],
        budgets: Mapping[str, float],
        start: float,
        total: float,
        told: Callable[[Mapping[str, Found]], None],
    ):
        self.command, self.budgets, self.start, self.total, self.told = command, budgets, start, total, told
        self.found = {name: Found() for name in budgets}

    def run(self) -> dict[str, Found]:
        """Measure all sections, and return what is known of each."""
        end = time.monotonic() + self.total
        while names := self._open():
            if time.monotonic() >= end:
                for name in names:
                    self.found[name].error = f"left out: the {self.total:g} seconds for all sections are over"
                break
            self._process(names, end)
        self.told(self.found)
        return self.found

    def _open(self) -> list[str]:
        return [name for name, found in self.found.items() if found.seconds is None and found.error is None]

    def _process(self, names: Sequence[str], end: float) -> None:
        """Let one process measure sections until it ends, or is ended; the one it was at then has an error."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([*self.command, *names], **pipes)
        lines: queue.Queue[str | None] = queue.Queue()
        last: list[str] = []
        jobs = ((_read, (process, lines)), (_repeat, (process, last)))
        readers = [threading.Thread(target=job, args=given, daemon=True) for job, given in jobs]
        for reader in readers:
            reader.start()
        current, until, limit = names[0], time.monotonic() + self.start, "start"
        try:
            while True:
                try:
                    line = lines.get(timeout=max(0.0, min(until, end) - time.monotonic()))
                except queue.Empty:
                    self.found[current].error = self._too_long(current, limit, end)
                    return
                if line is None:
                    code = process.wait()
                    readers[1].join()
                    self._ended(current, code, last)
                    return
                said = json.loads(line)
                current = said["section"]
                if said.get("started"):
                    until, limit = time.monotonic() + self.budgets[current], "section"
                self._note(self.found[current], said)
                self.told(self.found)
                if "seconds" in said:
                    following = names[names.index(current) + 1 :]
                    if not following:
                        return
                    current, until, limit = following[0], time.monotonic() + self.start, "start"
        finally:
            process.kill()
            process.wait()
            for reader in readers:
                reader.join()

    @staticmethod
    def _note(found: Found, said: Mapping[str, Any]) -> None:
        if "row" in said:
            found.rows.append(said["row"])
        found.seconds, found.error = said.get("seconds", found.seconds), said.get("error", found.error)

    def _too_long(self, name: str, limit: str, end: float) -> str:
        if time.monotonic() >= end:
            return f"stopped: the {self.total:g} seconds for all sections are over"
        if limit == "start":
            return f"stopped: nothing was measured within {self.start:g} seconds of the start"
        return f"stopped: it took more than its {self.budgets[name]:g} seconds"

    def _ended(self, name: str, code: int, last: Sequence[str]) -> None:
        """Note that a process has ended at a section, which is told already where that failed by itself."""
        found = self.found[name]
        if found.seconds is None and found.error is None:
            said = f": {last[0]}" if last else " and no word of why"
            found.error = f"its process ended with code {code}{said}"


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Hand on the lines of a process that are for the supervisor; print the others as errors are printed."""
    for line in process.stdout or ():
        if line.startswith(MARK):
            lines.put(line.removeprefix(MARK))
        else:
            print(line, end="", file=sys.stderr, flush=True)
    lines.put(None)


def _repeat(process: subprocess.Popen[str], last: list[str]) -> None:
    """Print the errors of a process, and keep the last line of them."""
    for line in process.stderr or ():
        print(line, end="", file=sys.stderr, flush=True)
        if line.strip():
            last[:] = [line.strip()[:_LONGEST]]


def as_markdown(found: Mapping[str, Found]) -> str:
    """Return what is known as one table; what failed is a sentence in it."""
    lines = [["section", "what", "figure", "note"], ["---"] * 4]
    for name, section in found.items():
        lines += [[name, row["what"], row["figure"], row["note"]] for row in section.rows]
        if section.error is not None:
            lines.append([name, "failed", "–", section.error])
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def as_json(found: Mapping[str, Found]) -> dict[str, Any]:
    """Return what is known, for a file."""
    return {name: vars(section) for name, section in found.items()}


def write(folder: Path, found: Mapping[str, Found], about: Mapping[str, Any]) -> None:
    """Write the table and the JSON of what is known."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.md").write_text(as_markdown(found), encoding="utf-8")
    content = json.dumps({**about, "sections": as_json(found)}, indent=1, ensure_ascii=False)
    (folder / "gpu.json").write_text(content + "\n", encoding="utf-8")
