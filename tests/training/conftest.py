from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing a run takes longer than training the tiny model: only the report's own tests draw."""
    if not request.module.__name__.endswith("test_report"):
        monkeypatch.setattr("mllm_embed.training.stages.write_report", lambda run: [])
