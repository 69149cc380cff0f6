"""Locks between processes, of which one holds one at a time and a killed one loses it; and writes that fail."""

from __future__ import annotations

import platform
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from mllm_embed import files
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.files import (
    LOCK_FILE,
    atomic_file,
    atomic_folder,
    file_lock,
    folder_lock,
    read_json,
    write_json,
)

_HOLD = """
import sys, time
from pathlib import Path
from mllm_embed.files import file_lock
with file_lock(Path(sys.argv[1]), wait=True) as held:
    print(held, flush=True)
    sys.stdin.readline()
"""

_COUNT = """
import sys
from pathlib import Path
from mllm_embed.files import file_lock
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
    monkeypatch.setattr(files, "_SILENT", 0.1)
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


def test_json_keeps_half_characters_and_refuses_a_key_that_stands_twice(tmp_path: Path) -> None:
    value = {"path": "/x/caf\udce9", "half": "\ud83d", "whole": "é \U0001f600"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "") == value and "é" in (tmp_path / "a.json").read_text(encoding="utf-8")
    (tmp_path / "b.json").write_text('{"a": 1, "b": [{"c": 2, "c": 3}]}')
    with pytest.raises(DataError, match='b.json is not JSON .the key "c" stands twice.: mend it'):
        read_json(tmp_path / "b.json", "mend it")


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Within, no file of this process may grow beyond a size in bytes: what a full disk is to what writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _tokenizer(path: Path) -> None:
    Tokenizer(WordLevel({f"word{number}": number for number in range(1000)}, "word0")).save(str(path))


def _picture(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(path, format="PNG")


def _figure(path: Path) -> None:
    from matplotlib.figure import Figure

    Figure().savefig(path, format="png")


def _vectors(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones((500, 4)), allow_pickle=False)


def _faiss(path: Path) -> None:
    index = faiss.IndexFlatL2(4)
    index.add(np.ones((500, 4), np.float32))
    faiss.write_index(index, str(path))


WRITERS = {
    "bytes": lambda path: path.write_bytes(bytes(5000)),
    "text": lambda path: path.write_text("x" * 5000),
    "numpy": _vectors,
    "numpy, several": lambda path: np.savez(path.open("wb"), a=np.ones(5000)),
    "safetensors": lambda path: save_file({"a": torch.ones(5000)}, path),
    "tokenizers": _tokenizer,
    "torch": lambda path: torch.save({"a": torch.ones(5000)}, path),
    "pillow": _picture,
    "matplotlib": _figure,
    "parquet": lambda path: pq.write_table(pa.table({"a": np.random.default_rng(0).random(5000)}), path),
    "faiss": _faiss,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("size", [0, 1000])
def test_what_any_library_raises_on_a_full_disk_is_one_sentence_with_a_reason(
    tmp_path: Path, writer: str, size: int
) -> None:
    for path, atomic in ((tmp_path / "file", atomic_file), (tmp_path / "folder", atomic_folder)):
        with atomic(path) as fresh:
            inside = fresh if atomic is atomic_file else fresh / "file"
            inside.write_text("old")
        with pytest.raises(DataError) as told, limited_files(size), atomic(path) as fresh:
            WRITERS[writer](fresh if atomic is atomic_file else fresh / "file")
        message = str(told.value)
        assert message.startswith(f"cannot write {path}: ") and "None" not in message and "\n" not in message
        assert any(words in message for words in ("File too large", "requested and", "disk is full", "encoder error"))
        assert (path if path.is_file() else path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_error_that_is_no_failing_disk_stays_what_it_is(tmp_path: Path) -> None:
    for error in (RuntimeError("CUDA out of memory"), ValueError("no"), ConfigError("another"), KeyboardInterrupt()):
        for atomic in (atomic_file, atomic_folder):
            with pytest.raises(type(error)) as told, atomic(tmp_path / "x"):
                raise error
            assert told.value is error
    with pytest.raises(DataError, match="x: No such file or directory .*missing"), atomic_folder(tmp_path / "x"):
        (tmp_path / "missing").read_text()
    with pytest.raises(DataError, match="x: nothing said"), atomic_file(tmp_path / "x"):
        raise OSError("nothing said")
    assert not list(tmp_path.iterdir())
