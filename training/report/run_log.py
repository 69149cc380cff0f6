"""The log of a run: log.jsonl for programs, and lines on the console that people can read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from mllm_embed.errors import DataError, reason
from mllm_embed.files import write_file, writing
from mllm_embed.text import half_character

LOG_FILE = "log.jsonl"
Line = dict[str, Any]  # stage, step, and figures by name, or a warning


class JsonLog(TrainerCallback):
    """The file log.jsonl, a line for every logged step; a run that goes on first drops what it will repeat.

    There is a line at every checkpoint, so that the lines of a run that goes on are those of one that was not stopped.
    """

    def __init__(self, path: Path, stage: str):
        """Append the lines of a stage to the file at `path`."""
        self.path, self.stage = path, stage
        self._warned: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Drop the lines after the step that the run goes on from, and recall what was warned of."""
        if not state.is_world_process_zero or not self.path.exists():
            return
        rows = self._rows_before(state.global_step)
        own = (row for row in rows if row["stage"] == self.stage)
        self._warned = {row["about"] for row in own if "warning" in row}
        write_file(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def _rows_before(self, step: int) -> list[Line]:
        """Return the lines that stay when the stage goes on from a step: the other stages', and its own until then."""
        reached = step or -1  # a run that starts anew also measures step 0 anew
        return [row for row in read_log(self.path) if row["stage"] != self.stage or row["step"] <= reached]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Order a line wherever a checkpoint is written."""
        control.should_log |= control.should_save

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Append a line."""
        if state.is_world_process_zero and logs:
            self._append(state.global_step, logs)

    def warn(self, step: int, about: str, sentence: str) -> None:
        """Write a warning to stderr and the log, if it is the first `about` something in a stage."""
        if about not in self._warned:
            self._warned.add(about)
            tqdm.write(f"warning: stage '{self.stage}': {sentence}", file=sys.stderr)
            self._append(step, {"about": about, "warning": sentence})

    def _append(self, step: int, values: Line) -> None:
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.stage, "step": step, **values}) + "\n")


def read_log(path: Path) -> list[Line]:
    """Return the lines of a log; a full disk or a kill may have cut the last one, which is left out.

    Raises FileNotFoundError without the file, DataError for one that is damaged.
    """
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines]
        whole = all(_is_name(row["stage"]) and isinstance(row["step"], int) for row in rows)
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({reason(error)}); move it away, and the run goes on without it") from error
    if not whole:
        raise DataError(f"{path} is damaged: it holds lines without stage and step; move it away")
    return rows


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and not half_character(value)


class Console(TrainerCallback):
    """One short line a logged step, and a bar on a terminal."""

    def __init__(self, stage: str):
        """Name the stage in every line."""
        self.stage = stage
        self.bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar, in the first process."""
        if state.is_world_process_zero:
            # disable=None: no bar where there is no terminal
            self.bar = tqdm(
                desc=self.stage, total=state.max_steps, initial=state.global_step, unit="step", leave=False,
                disable=None,
            )  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar on."""
        if self.bar is not None:
            self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: Line | None = None, **_: Any) -> None:
        """Print a line."""
        if self.bar is not None and logs:
            tqdm.write(f"{self.stage} {state.global_step}/{state.max_steps}  {line_in_words(logs)}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def line_in_words(logs: Line) -> str:
    """Return a line of the log for people; with several terms, their accuracies in the order of the recipe."""
    if "recall@1" in logs:
        return _validation_in_words(logs)
    if "mining_seconds" in logs:
        return _mining_in_words(logs)
    names = [name for name in logs if name.startswith("accuracy/") and "@" not in name]
    accuracies = " / ".join(f"{logs[name]:.3f}" for name in names)
    parts = [f"loss {logs['loss']:.4f}", f"accuracy {accuracies}", f"lr {logs['learning_rate']:.2e}"]
    if "tokens_per_s" in logs:
        parts.append(f"{logs['tokens_per_s']:,.0f} tokens/s")
    if logs.get("data_wait", 0) >= 0.1:
        parts.append(f"{logs['data_wait']:.0%} of the time waiting for data")
    return "  ".join(parts)


def _mining_in_words(logs: Line) -> str:
    return (
        f"mined {logs['mined_queries']:,} queries among {logs['mined_candidates']:,} candidates in "
        f"{logs['mining_seconds']:,.0f} s: {logs['mined_negatives']:.1f} negatives a query, of mean similarity "
        f"{logs['mined_similarity']:.3f}, positives {logs['mined_positive']:.3f}"
    )


def _validation_in_words(logs: Line) -> str:
    return "validation  " + "  ".join(f"{name} {logs[name]:.4f}" for name in logs if name.startswith("recall@"))
