"""Only regular files of a known format and a bounded size are read, and what else a name leads to is said."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from mllm_embed.errors import ImageError
from mllm_embed.inputs.images import load_image, name_of
from mllm_embed.inputs.picture_files import MAX_BYTES, is_picture
from mllm_embed.inputs.picture_formats import IMAGE_FORMATS


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_a_picture_is_known_by_its_content(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "without suffix"
    Image.new("RGB", (6, 4), "white").save(file, kind)
    assert is_picture(file)
    assert load_image(file).getcolors() == [(24, (255, 255, 255))]
    file.rename(tmp_path / "x.txt")
    assert is_picture(str(tmp_path / "x.txt"))


@pytest.mark.parametrize(
    "content", [b"", b"BMW and other cars", b"\x89PNG", b"RIFF\0\0\0\0WAVEfmt ", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"]
)
def test_what_only_looks_like_a_picture_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content)
    assert not is_picture(file)
    with pytest.raises(ImageError, match="is not a"):
        load_image(file)


def _odd_places(folder: Path) -> dict[str, tuple[object, str]]:
    os.mkfifo(folder / "pipe.png")
    os.symlink("b.png", folder / "a.png")
    os.symlink("a.png", folder / "b.png")
    sparse = folder / "sparse.jpg"
    sparse.write_bytes(b"\xff\xd8\xff")
    os.truncate(sparse, MAX_BYTES + 1)
    return {
        "pipe": (folder / "pipe.png", "is a pipe"),
        "device": ("/dev/zero", "is a device"),
        "folder": (folder, "is a folder"),
        "loop": (folder / "a.png", "symbolic links"),
        "proc": ("/proc/self/cmdline", "is not a"),
        "memory": ("/proc/self/mem", "cannot be read"),
        "size": (sparse, "over the limit of 268,435,456"),
        "long name": (folder / ("x" * 300), "cannot be opened: File name too long"),
        "long path": ("y/" * 5000, "cannot be opened: File name too long"),
        "below a file": (sparse / "a.png", "cannot be opened"),
        "zero byte": ("a\0b.png", r"^a\\x00b.png cannot be the name of a file"),
        "surrogate": ("\ud800.png", r"^\\ud800.png cannot be the name of a file"),
        "lines": ("a\nb.png", r"^a\\nb.png does not exist"),
        "no name": ("", "is empty"),
        "data": ("data:image/png;base64," + "A" * 10_000, "is a URL"),
        "http": (Path("https://example.org/a.png"), "is a URL"),
        "s3": ("s3://bucket/a.png", "is a URL"),
        "file": ("file:///tmp/a.png", "is a URL"),
    }


ODD_PLACES = (
    "pipe", "device", "folder", "loop", "proc", "memory", "size", "long name", "long path", "below a file", "zero byte",
    "surrogate", "lines", "no name", "data", "http", "s3", "file",
)  # fmt: skip


@pytest.mark.parametrize("case", ODD_PLACES)
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path: Path, case: str) -> None:
    path, message = _odd_places(tmp_path)[case]
    with pytest.raises(ImageError, match=message) as caught:
        load_image(path)
    assert len(str(caught.value)) < 600
    str(caught.value).encode()
    assert is_picture(path) == (case == "size")


def test_a_socket_is_no_picture() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as served:
        served.bind(f"{folder}/s")  # the path of a socket is short
        assert not is_picture(f"{folder}/s")
        with pytest.raises(ImageError, match="is a socket"):
            load_image(f"{folder}/s")


def test_a_name_that_is_no_unicode_is_read(tmp_path: Path) -> None:
    file = tmp_path / "caf\udce9.png"
    Image.new("RGB", (2, 2), "teal").save(os.fsencode(file), "PNG")
    assert load_image(file).getpixel((0, 0)) == (0, 128, 128)
    assert load_image(str(file)).size == (2, 2)
    assert name_of(file).endswith("caf\\udce9.png")
