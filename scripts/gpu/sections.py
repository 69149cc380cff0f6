"""The sections of the bench by name, and the process that measures them, one after the other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from mllm_embed.errors import reason
from mllm_embed.saving.versions import versions

from . import decoding, extraction, quantised, ranking, training_step
from .measuring import Row, tera
from .sizes import SIZES
from .supervisor import MARK
from .workplace import Workplace


def machine(place: Workplace) -> Iterator[Row]:
    """Measure the peak rate, beside which the others stand."""
    gpu = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else "a CPU"
    values = {"rate": place.peak, "versions": versions(), "device": gpu, "threads": torch.get_num_threads()}
    side = place.size.product
    yield Row(
        "bfloat16 product", tera(place.peak), f"{side:,} squared, random numbers, the best of 10 on {gpu}", values
    )


SECTIONS: dict[str, Callable[[Workplace], Iterator[Row]]] = {
    "machine": machine,
    "qwen2_vl": extraction.qwen2_vl,
    "qwen3_vl": extraction.qwen3_vl,
    "training": training_step.training,
    "quantised": quantised.quantised,
    "ranking": ranking.ranking,
    "decoding": decoding.decoding,
}


def work(names: Sequence[str], size: str, device: str, folder: Path, seconds: Mapping[str, float]) -> None:
    """Measure sections, and print a line of JSON behind MARK for each row, start, end and failure.

    What a section raises is told and raised: what went wrong on a GPU may leave all that comes after it wrong, so that
    another process is to measure the rest.
    """
    place = Workplace(torch.device(device), SIZES[size], folder, 0.0)
    for name in names:
        place.seconds = seconds[name]
        place.begin()
        with _Told(name):
            for row in SECTIONS[name](place):
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
