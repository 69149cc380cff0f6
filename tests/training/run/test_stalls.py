"""Waits without an end: workers that stand still or die, no room in shared memory, a main thread that hears nothing."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from torch.utils.data import get_worker_info

from mllm_embed.errors import ConfigError
from mllm_embed.training.batch import handover
from mllm_embed.training.batch.examples import Reader
from mllm_embed.training.batch.progress import Progress
from mllm_embed.training.cli import main
from mllm_embed.training.run import stopping, waiting, watch
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.checkpoints import last_checkpoint
from tiny import make_data

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def recipe(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stalls")
    stage = {
        "data": str(make_data(folder / "halves")), "rows": "pairs", "batch_size": 4, "steps": 40, "save_steps": 2,
        "chunk_tokens": 60, "terms": [{"query": "image", "positive": "caption"}],
    }  # fmt: skip
    values = {
        "model": str(tiny_llava), "output": "set", "bf16": False, "workers": 2, "stages": {"one": stage},
        "lora": {"rank": 2},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


@pytest.fixture
def command(recipe: Path, tmp_path: Path) -> list[str]:
    return [str(recipe), "--override", f"output={tmp_path / 'run'}"]


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Callable[[], None]], None]]:
    """Does something, once, in the loss of a step."""
    original = trainer_module.ContrastiveTrainer.compute_loss

    def arrange(step: int, action: Callable[[], None]) -> None:
        done: list[int] = []

        def interrupted(self, *args, **kwargs):
            if self.state.global_step == step and not done:
                done.append(step)
                action()
            return original(self, *args, **kwargs)

        monkeypatch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)

    yield arrange
    assert multiprocessing.active_children() == []


def _stop_workers() -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGSTOP)


def _kill_workers() -> None:
    """Kill the workers, and hear of it here.

    torch raises from the signal's handler, wherever that is called: amid its own checkpointing, the saved state of
    the process would be left in disorder, for the tests that follow. Their deaths are waited for without being taken
    from torch, which looks for them in the handler.
    """
    heard: RuntimeError | None = None
    for child in multiprocessing.active_children():
        try:
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        except RuntimeError as error:
            heard = error
    if heard:
        raise heard


@pytest.fixture
def in_the_stall(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], threading.Thread]:
    """Gives a started thread that does something once the training has waited for rows for a while."""
    original, entered = trainer_module.ContrastiveTrainer.get_batch_samples, [float("inf")]

    def waited_for(*args, **kwargs):
        entered[0] = time.monotonic()
        samples = original(*args, **kwargs)
        entered[0] = float("inf")
        return samples

    monkeypatch.setattr(trainer_module.ContrastiveTrainer, "get_batch_samples", waited_for)

    def arrange(action: Callable[[], None]) -> threading.Thread:
        def wait() -> None:
            while time.monotonic() - entered[0] < 0.7:
                time.sleep(0.05)
            action()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    return arrange


def _ended(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_a_worker_that_hangs_in_a_row_ends_the_run_and_is_named_by_it(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at_step
) -> None:
    original = Reader.__call__

    def hanging(self, row):
        if row.id == "p3" and multiprocessing.parent_process():
            time.sleep(1000)
        return original(self, row)

    monkeypatch.setattr(waiting, "STALL", 0.5)
    at_step(4, lambda: monkeypatch.setattr(Reader, "__call__", hanging))  # the next pass's workers have it
    assert main(command) == 2
    told = _ended(capsys)
    assert told.startswith("error: stage 'one' stopped: a worker process has been at row 'p3' of ")
    assert "for 0 s" in told and "start the same command again: it goes on from checkpoint-" in told
    assert last_checkpoint(tmp_path / "run/checkpoints/one").name == told.rpartition(" ")[2]


def test_workers_that_stand_still_between_rows_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STALL", 0.0)
    wait = waiting.RowsWait(Progress(2), lambda _: ("", ""), tmp_path / "one")
    assert wait.stalled(time.monotonic() - 1)
    assert "a worker process has handed over nothing for 0 s" in str(wait.error)
    assert str(wait.error).endswith("it goes on from the start of the stage")


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_ends_a_stalled_run_after_a_grace_and_a_second_one_at_once(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at_step,
    in_the_stall, signals: int,
) -> None:  # fmt: skip
    home, kept = tmp_path / "run/checkpoints/one", []
    monkeypatch.setattr(stopping, "GRACE", 0.2 if signals == 1 else 1000.0)

    def end() -> None:
        kept.append(last_checkpoint(home))
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(watch.APART + 0.1)

    def stall() -> None:
        _stop_workers()
        threads.append(in_the_stall(end))

    threads: list[threading.Thread] = []
    at_step(4, stall)
    assert main(command) == 143
    threads[0].join()
    assert _ended(capsys) == "stopped by SIGTERM; the same command goes on"
    assert kept == [last_checkpoint(home)] and kept[0] is not None


def test_one_sigterm_that_arrives_twice_still_writes_its_checkpoint(
    command: list[str], tmp_path: Path, at_step
) -> None:
    def signalled() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    at_step(2, signalled)
    assert main(command) == 143
    assert last_checkpoint(tmp_path / "run/checkpoints/one").name == "checkpoint-3"


def test_a_killed_worker_ends_the_run_in_a_sentence(
    command: list[str], capsys: pytest.CaptureFixture[str], at_step
) -> None:
    at_step(2, _kill_workers)
    assert main(command) == 2
    told = _ended(capsys)
    assert told.startswith("error: stage 'one' stopped: a worker process died (killed by signal: Killed), for want of")
    assert "lower workers or batch_size" in told


def test_a_process_whose_main_thread_does_not_end_is_ended_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "DYING", 0.3)
    heard, ended = [], threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with watch.Watch(lambda asked, again: asked is not None, ended.set):
            os.kill(os.getpid(), signal.SIGTERM)
            assert ended.wait(10)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(heard) == 2  # the user's, and the watch's, which could have ended a wait


def _adapter(run: Path) -> bytes:
    return (run / "one/adapter_model.safetensors").read_bytes()


def test_what_finds_no_shared_memory_is_told_of_before_and_goes_through_a_pipe_unchanged(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--override", "stages.one.steps=4"]
    assert main([*command, *short]) == 0
    whole = _adapter(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    real = handover._shared_block

    def starved(size: int) -> None:
        if get_worker_info().id == 1:  # of no room one worker is told, for the other torch finds none
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        assert real(size) is None

    def small(path):
        worker = get_worker_info()
        full = Path(path) == handover.SHARED_MEMORY and (worker is None or worker.id == 0)
        return shutil._ntuple_diskusage(2**20, 2**20, 1000) if full else disk_usage(path)

    disk_usage = shutil.disk_usage
    monkeypatch.setattr(handover.shutil, "disk_usage", small)
    monkeypatch.setattr(handover, "_shared_block", starved)
    before = set(Path("/dev/shm").iterdir())
    assert main([*command, *short]) == 0
    assert _adapter(tmp_path / "run") == whole
    assert not [path for path in set(Path("/dev/shm").iterdir()) - before if path.stat().st_size == 0]
    told = capsys.readouterr().err
    assert "warning: stage 'one': shared memory (/dev/shm) has 0 MiB free, and the batches of 2 workers may" in told
    assert "--shm-size 1g, or lower workers" in told


@pytest.mark.parametrize(
    ("said", "how"),
    [
        ("DataLoader worker (pid 17) is killed by signal: Killed. ", "killed by signal: Killed"),
        ("DataLoader worker (pid(s) 17, 18) exited unexpectedly", "exited unexpectedly"),
        ("DataLoader worker (pid 17) exited unexpectedly with exit code 1. Details are lost", "exit code 1"),
    ],
)
def test_each_way_in_which_torch_tells_of_a_death_is_understood(tmp_path: Path, said: str, how: str) -> None:
    wait = waiting.RowsWait(Progress(2), lambda _: ("", ""), tmp_path / "one")
    with pytest.raises(ConfigError, match=f"a worker process died \\([^()]*{how}\\), for want of memory"), wait.told():
        raise RuntimeError(said)
