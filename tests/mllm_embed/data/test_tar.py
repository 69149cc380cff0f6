"""Tar shards: each file of a sample is in its row, or named as passed over, or the shard is refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from mllm_embed.data.sources import open_sources, picture_at
from mllm_embed.data.tables.tar_list import FileShard, file_shard
from mllm_embed.errors import DataError
from mllm_embed.types import Document

TEXTS = {"image": "image", "text": "txt"}


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


RED, DARK = png(255), png(9)


def shard(folder: Path, *members: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(folder / "s.tar", "w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return folder / "s.tar"


def other(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("shoe 22.05.jpg", "shoe 22.06.jpg"), 'row 1 is the sample "shoe 22" with 2 pictures, 05.jpg, 06.jpg: a key'),
        (("k.jpg", "k.txt", "k.png"), '"k" with 2 pictures, jpg, png: .*; say which with --fields image=jpg'),
        (("a.jpg", "k.jpg", "k.mask.png"), 'row 2 is the sample "k" with 2 pictures'),
        (("k.jpg", "k.jpg"), 's.tar holds "k.jpg" and "k.jpg", of which a sample keeps one'),
        (("k.jpg", "k.JPG"), 's.tar holds "k.jpg" and "k.JPG"'),
        (("a.jpg", "b.jpg", "a.jpg"), 's.tar holds "a.jpg" and "a.jpg"'),
    ],
)  # fmt: skip
def test_two_files_for_one_place_are_refused(tmp_path: Path, names: Sequence[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_sources([shard(tmp_path, *((name, b"words" if "txt" in name else RED) for name in names))])


def test_which_of_two_pictures_is_said_by_a_field(tmp_path: Path) -> None:
    file = shard(tmp_path, ("k.jpg", RED), ("k.mask.png", DARK))
    assert open_sources([file], {"image": "mask.png"}).read(0)[0] == Document(image=DARK)
    assert open_sources([file], {"image": "jpg"}).read(0)[0] == Document(image=RED)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (3, 1, 0, 2), (1, 2, 3, 0)])
@pytest.mark.parametrize("size", [0, 100_000])
def test_the_files_of_a_sample_are_found_wherever_they_lie(tmp_path: Path, order: Sequence[int], size: int) -> None:
    members = [("a.jpg", RED + bytes(size)), ("a.txt", b"first"), ("b.jpg", DARK), ("b.txt", b"second")]
    listing = open_sources([shard(tmp_path, *(members[at] for at in order))], TEXTS)
    found = {name: listing.read(row) for row, name in enumerate(listing.ids)}
    assert {name: item for name, (item, _) in found.items()} == {
        "a": Document(RED + bytes(size), "first"),
        "b": Document(DARK, "second"),
    }
    assert picture_at(found["b"][1]) == DARK


def test_names_of_members(tmp_path: Path) -> None:
    names = ["x/a.jpg", "y/a.jpg", "x.y/a.jpg", "../up.jpg", "/abs/a.jpg", "./dot.jpg", "K.JPG", "one 22.05.png"]
    listing = open_sources([shard(tmp_path, *((name, RED) for name in names))])
    assert listing.ids == ["x/a", "y/a", "x.y/a", "../up", "/abs/a", "./dot", "K", "one 22"]
    assert all(listing.read(row)[0] == Document(RED) for row in range(len(names))) and not listing.notes()


def test_members_that_are_no_samples_are_counted(tmp_path: Path) -> None:
    members = [
        ("k.jpg", RED), other("l.jpg", tarfile.SYMTYPE, "k.jpg"), other("m.jpg", tarfile.LNKTYPE, "k.jpg"),
        other("d.jpg", tarfile.CHRTYPE), other("f.jpg", tarfile.FIFOTYPE), other("folder.jpg", tarfile.DIRTYPE),
        ("._k.jpg", b"x"), ("README", b"x"), ("ends.", b"x"),
    ]  # fmt: skip
    listing = open_sources([shard(tmp_path, *members)])
    assert listing.ids == ["k"]
    assert listing.notes() == [
        f"{tmp_path / 's.tar'}: passed over 2 links (the first l.jpg), 2 devices and sparse files (the first d.jpg), "
        "1 hidden files (the first ._k.jpg), 2 files without an ending (the first README), which are no part of a "
        "sample"
    ]
    with pytest.raises(DataError, match="s.tar holds no files of a sample, but links as l.jpg"):
        open_sources([shard(tmp_path, members[1])])
    with pytest.raises(DataError, match="s.tar holds no files; fetch it again"):
        open_sources([shard(tmp_path)])


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_name_that_is_no_unicode_spoils_its_row_alone(tmp_path: Path, format: int) -> None:
    listing = open_sources([shard(tmp_path, ("caf\udce9.jpg", RED), ("ok.jpg", RED), format=format)])
    assert listing.ids == [r"caf\xe9", "ok"] and listing.read(1)[0] == Document(RED)
    with pytest.raises(DataError, match=r'row 1: its id "caf\\xe9" is no Unicode; write it in UTF-8'):
        listing.read(0)


def test_a_text_that_nobody_asked_for_spoils_nothing(tmp_path: Path) -> None:
    file = shard(tmp_path, ("k.jpg", RED), ("k.txt", b"\xff"), ("k.json", b'{"a": 1, "a": 2}'))
    assert open_sources([file]).read(0)[0] == Document(RED)
    with pytest.raises(DataError, match="row 1: its txt cannot be read"):
        open_sources([file], TEXTS)


def test_a_tar_file_that_is_not_whole(tmp_path: Path) -> None:
    file = shard(tmp_path, ("k.jpg", RED), ("l.jpg", RED), ("m.jpg", RED))
    whole = file.read_bytes()
    for content, why in (
        (whole[:1024], "it is cut off, since the mark of its end is missing"),
        (whole[: 3 * 1024], "it is cut off"),
        (whole[: 2 * 1024 + 100], "it is cut off"),
        (whole[: 2 * 1024 + 520], "unexpected end of data"),
        (whole + whole, "it goes on behind the mark of its end, at byte 3,072"),
        (whole[:1024] + b"Z" + whole[1025:], "at byte 1,024 stands no whole header of a file"),
        (b"\x1f\x8b" + whole, "truncated header|bad checksum|invalid header"),
        (b"", "empty file"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"s.tar is not a whole, uncompressed tar file .({why})"):
            open_sources([file])
    file.write_bytes(whole[: 3 * 1024 + 512])  # of the two blocks of its end, one is enough
    assert open_sources([file]).ids == ["k", "l", "m"]
    file.rename(tmp_path / "s.tar.gz")
    with pytest.raises(DataError, match="leads to files of .gz; .*; unpack it first"):
        open_sources([tmp_path / "s.tar.gz"])


def test_a_damaged_list_in_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    file = shard(tmp_path, ("k.jpg", RED), ("k.txt", b"words"), ("l.jpg", DARK))
    right = open_sources([file]).ids
    (cached,) = (tmp_path / "home/mllm_embed/tar").iterdir()
    whole = cached.read_bytes()
    rng = np.random.default_rng(0)
    broken = [b"", b"x", whole[:-30], whole[: len(whole) // 2], whole[: len(whole) // 3] + bytes(len(whole) // 3)]
    for at, bit in zip(rng.integers(len(whole), size=60).tolist(), rng.integers(8, size=60).tolist(), strict=True):
        broken.append(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
    for content in broken:
        cached.write_bytes(content)
        assert open_sources([file]).ids == right and open_sources([file], TEXTS).read(0)[0] == Document(RED, "words")
    listed = file_shard(file)
    for wrong in ({"offsets": listed.offsets + 10_000_000}, {"kinds": listed.kinds + 9}, {"keys": listed.keys[:1]}):
        np.savez(cached, **listed._replace(**wrong)._asdict())
        assert open_sources([file]).ids == right
    assert isinstance(listed, FileShard)
