"""Locks between processes, of which one holds one at a time and a killed one loses it."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mllm_embed import locks
from mllm_embed.errors import ConfigError
from mllm_embed.locks import LOCK_FILE, file_lock, folder_lock

_HOLD = """
import sys, time
from pathlib import Path
from mllm_embed.locks import file_lock
with file_lock(Path(sys.argv[1]), wait=True) as held:
    print(held, flush=True)
    sys.stdin.readline()
"""

_COUNT = """
import sys
from pathlib import Path
from mllm_embed.locks import file_lock
lock, number = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(60):
    with file_lock(lock, wait=True):
        number.write_text(str(int(number.read_text()) + 1))
"""


def holder(lock: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until it reads a line."""
    command = [sys.executable, "-c", _HOLD, str(lock)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    return process


def test_a_lock_is_held_once_and_leaves_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "new/x.lock"
    with file_lock(lock) as held, file_lock(lock) as again:
        assert held and not again and lock.exists()
    assert not lock.exists()
    with file_lock(lock) as held:
        assert held


def test_another_process_keeps_its_lock_until_it_is_done_or_dies(tmp_path: Path) -> None:
    lock = tmp_path / LOCK_FILE
    for end in ("done", "killed"):
        process = holder(lock)
        with file_lock(lock) as held:
            assert not held
        with pytest.raises(ConfigError, match="another process is writing to"), folder_lock(tmp_path):
            pass
        if end == "done":
            process.communicate("\n", timeout=60)
        else:
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
            assert lock.exists()  # an empty file, which keeps nobody away
        with folder_lock(tmp_path):
            assert lock.exists()
        assert not lock.exists()


def test_a_process_that_waits_gets_the_lock(tmp_path: Path) -> None:
    process, got = holder(tmp_path / LOCK_FILE), threading.Event()

    def wait() -> None:
        with folder_lock(tmp_path, wait=True):
            got.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.3)
    assert not got.is_set()
    process.communicate("\n", timeout=60)
    waiter.join(timeout=60)
    assert got.is_set() and not list(tmp_path.iterdir())


def test_a_long_wait_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "_SILENT", 0.1)
    process = holder(tmp_path / LOCK_FILE)
    threading.Timer(0.6, process.communicate, ["\n"]).start()
    with folder_lock(tmp_path, wait=True):
        told = capsys.readouterr().err
    assert told == f"waiting for process {process.pid} on {platform.node()}, which writes to {tmp_path}\n"


def test_many_that_wait_hold_it_one_by_one_though_each_removes_the_file(tmp_path: Path) -> None:
    lock, number = tmp_path / "x.lock", tmp_path / "number"
    number.write_text("0")
    command = [sys.executable, "-c", _COUNT, str(lock), str(number)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert number.read_text() == "180" and not lock.exists()
