"""Files that are read and written: JSON, and writes that fail."""

from __future__ import annotations

import os
import resource
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

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.files import atomic_file, atomic_folder, check_writable, read_json, read_text, write_json


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


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="has no devices")
def test_a_device_is_no_file_of_text() -> None:
    """It has no end: reading it would take all memory."""
    for reading in (lambda: read_text(Path("/dev/zero")), lambda: read_json(Path("/dev/zero"), "give a file")):
        with pytest.raises(DataError, match="^/dev/zero is a device; give a file$"):
            reading()


def test_no_file_takes_the_place_of_a_pipe_or_a_device(tmp_path: Path) -> None:
    """Who may write to /dev would lose /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: it is a device or a pipe; give the name of a file"):
        write_json(tmp_path / "pipe", {})
    with pytest.raises(DataError, match="it is a device or a pipe"):
        check_writable(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
