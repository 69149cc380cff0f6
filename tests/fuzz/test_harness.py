"""The harness notices what it is for: an input that hangs, eats memory, ends the process, or is answered wrongly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import pytest

from fuzz.tools import harness
from fuzz.tools.harness import RIGHT, TOLD, Case, Told, attempt, expect, sift
from mllm_embed.errors import DataError


def _refused(*lines: str) -> None:
    raise DataError("\n".join(lines))


ENDS: dict[str, tuple[Callable[[], object], str]] = {
    "fine": (lambda: None, ""),
    "told": (lambda: expect(attempt(lambda: _refused("one line")) == Told("one line"), "no"), ""),
    "two lines": (lambda: attempt(lambda: _refused("one", "two")), "traceback"),
    "no words": (lambda: attempt(lambda: _refused("")), "traceback"),
    "another error": (lambda: attempt(lambda: [][0]), "traceback"),
    "another answer": (lambda: expect(False, "2, not 1"), "wrong"),
    "a wait": (lambda: time.sleep(60), "hang"),
    "memory": (lambda: np.ones(harness.MEMORY // 4), "memory"),
    "the end": (lambda: os._exit(3), "crash"),
    "fine again": (lambda: None, ""),
}
CASES = [Case(name, name) for name in ENDS]


def _judge(case: Case) -> str:
    ENDS[case.what][0]()
    return TOLD if case.what == "told" else RIGHT


def test_every_fault_is_noticed_and_none_ends_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SECONDS", 1)
    monkeypatch.delenv("FUZZ_REPORT", raising=False)
    with pytest.raises(AssertionError) as caught:
        sift("the harness", CASES, _judge)
    head, *faults = str(caught.value).splitlines()
    assert head.startswith("the harness: 10 inputs, {'right': 2, 'told': 1}, 7 faults")
    for name, (_, kind) in ENDS.items():
        assert any(fault.startswith(f"- **{kind}** {name}:") for fault in faults) == bool(kind), name
