"""What tests of training share: no drawing, and for made triplets captions, somebody to ask, a mistake's sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mllm_embed.training.cli import main
from servers.chat import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    played = Server()
    yield played
    played.http.shutdown()
    played.http.server_close()


@pytest.fixture
def captions(data: Path) -> Path:
    """The folder of pictures and captions, eight of them, without triplets of its own."""
    (data / "triplets.jsonl").unlink()
    return data


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs make-triplets with words that are a mistake, and gives the one sentence that it ends in."""

    def run(*words: str) -> str:
        assert main(["make-triplets", *words]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return run


@pytest.fixture(scope="module", autouse=True)
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drawing a run takes longer than training the tiny model: only the report's own tests draw."""
    with pytest.MonkeyPatch.context() as patched:
        if not request.module.__name__.endswith("test_report"):
            patched.setattr("mllm_embed.training.run.stage.common.write_report", lambda run: [])
        yield


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out of plans the memory of a step, for which the model runs on fake tensors: other tests are of that."""
    from mllm_embed.training.plan.memory import StepPeak

    monkeypatch.setattr("mllm_embed.training.plan.memory.step_peak", lambda *_: StepPeak(0, 0, 0, 1 << 20, False))
