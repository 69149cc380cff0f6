"""The process that measures sections of the bench, one after the other."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from mllm_embed.errors import reason

from .sizes import SIZES
from .supervisor import MARK
from .workplace import Workplace

MODULES = {
    "machine": "machine", "ranking": "ranking", "qwen2_vl": "extraction", "training": "training_step",
    "decoding": "decoding", "quantised": "quantised", "qwen3_vl": "extraction",
}  # fmt: skip
"""Where each section lies, under its own name. They are imported in their turn: what one of them lacks is its own."""


def work(names: Sequence[str], size: str, device: str, folder: Path) -> None:
    """Measure sections, and print a line of JSON behind MARK for each row, start, end and failure.

    What a section raises is told and raised: what went wrong on a GPU may leave all that comes after it wrong, so that
    another process is to measure the rest.
    """
    place = Workplace(torch.device(device), SIZES[size], folder)
    for name in names:
        with _Told(name):
            section = getattr(importlib.import_module(f".{MODULES[name]}", __package__), name)
            for row in section(place):
                _tell(name, row=asdict(row))


class _Told:
    """A section whose start and end are told, and what ended it."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        _tell(self.name, started=True)
        self.began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            _tell(self.name, seconds=time.perf_counter() - self.began)
        else:
            _tell(self.name, error=f"{type(error).__name__}: {reason(error)}")


def _tell(name: str, **said: Any) -> None:
    print(f"{MARK}{json.dumps({'section': name, **said})}", flush=True)
