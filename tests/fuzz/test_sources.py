"""Odd sources, embedded by the command: every picture and row is in the store, is named, or the whole is refused."""

from __future__ import annotations

import contextlib
import csv
import datetime
import decimal
import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from fuzz.tools.harness import RIGHT, SKIPPED, TOLD, Case, expect, sift
from fuzz.tools.rows import tar_of
from mllm_embed import VectorStore
from mllm_embed.cli import main

Make = Callable[[Path], Sequence[Path]]


class Odd(NamedTuple):
    """A source.

    Args:
        make: writes it below a folder, and returns what is given to the command.
        ids: of the rows that are there; None where the source is to be refused, or a row of it to be named.
        named: what is said where not all of them are stored, any of these.
    """

    make: Callable[[Path], Sequence[str | Path]]
    ids: Sequence[str] | None
    named: tuple[str, ...] = ()


def _picture(number: int, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 12), (number * 40 % 256, number * 90 % 256, 99)).save(stream, format)
    return stream.getvalue()


def _files(**files: bytes | None) -> Make:
    """Return what writes a folder of files; None is a folder. "__" in a name is a folder, "_-_" a dot."""

    def make(folder: Path) -> Sequence[Path]:
        root = folder / "photos"
        for name, content in files.items():
            path = root / name.replace("__", "/").replace("_o_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if content is None else path.write_bytes(content)
        return [root]

    return make


def _named(names: dict[str, bytes]) -> Make:
    def make(folder: Path) -> Sequence[Path]:
        (folder / "photos").mkdir()
        for name, content in names.items():
            with open(os.path.join(os.fsencode(folder / "photos"), os.fsencode(name)), "wb") as file:
                file.write(content)
        return [folder / "photos"]

    return make


def _link(folder: Path, target: str) -> Sequence[Path]:
    (folder / "photos").mkdir()
    (folder / "photos/a.png").write_bytes(_picture(1))
    (folder / "other.png").write_bytes(_picture(2))
    (folder / "photos/b.png").symlink_to(target.format(folder=folder))
    return [folder / "photos"]


def _fifo(folder: Path) -> Sequence[Path]:
    (folder / "photos").mkdir()
    (folder / "photos/a.png").write_bytes(_picture(1))
    os.mkfifo(folder / "photos/b.png")
    return [folder / "photos"]


def _written(name: str, data: bytes | str) -> Make:
    def make(folder: Path) -> Sequence[Path]:
        (folder / "images").mkdir()
        for number in range(4):
            (folder / f"images/{number}.png").write_bytes(_picture(number))
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return [folder / name]

    return make


def _lines(name: str, *rows: Any) -> Make:
    return _written(name, "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def _parquet(**columns: list[Any]) -> Make:
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return _written("rows.parquet", stream.getvalue())


def _doubled_parquet() -> Make:
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    table = pyarrow.Table.from_arrays([["a", "b"], ["x", "y"], ["z", "w"]], names=["id", "text", "text"])
    pyarrow.parquet.write_table(table, stream)
    return _written("rows.parquet", stream.getvalue())


def _dictionary() -> Make:
    import pyarrow

    return _parquet(id=pyarrow.array(["a", "b", "a2"]).dictionary_encode(), text=["one", "two", "three"])


def _tar(*members: tuple[str, bytes], name: str = "s.tar") -> Make:
    return _written(name, tar_of(list(members)))


def _special_tar(kind: bytes, name: str = "b.png", target: str = "a.png") -> Make:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(_picture(1))
        tar.addfile(info, io.BytesIO(_picture(1)))
        odd = tarfile.TarInfo(name)
        odd.type, odd.linkname = kind, target
        tar.addfile(odd)
    return _written("s.tar", stream.getvalue())


def _two(first: Make, name: str, rows: list[dict[str, Any]]) -> Make:
    def make(folder: Path) -> Sequence[Path]:
        given = list(first(folder))
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [*given, folder / name]

    return make


def _pattern(folder: Path) -> Sequence[Path]:
    _files(a_o_png=P(1), b_o_csv=b"id,text\nb,two\n")(folder)
    return [folder / "photos/*"]


def _csv(rows: list[list[str]]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


P = _picture
BAD = ("row 1", "row 2", ":2", "unreadable")
TEXT = {"id": "a", "text": "one"}
SOURCES: dict[str, Odd] = {
    # folders
    "a folder": Odd(_files(a_o_png=P(1), b_o_jpg=P(2, "JPEG")), ["a.png", "b.jpg"]),
    "suffixes in capitals": Odd(_files(a_o_PNG=P(1), b_o_JPeG=P(2, "JPEG")), ["a.PNG", "b.JPeG"]),
    "tif and avif": Odd(
        _files(a_o_png=P(1), b_o_tif=P(2, "TIFF"), c_o_avif=P(3, "AVIF")), ["a.png", "b.tif", "c.avif"], ("tif",)
    ),
    "jfif": Odd(_files(a_o_png=P(1), b_o_jfif=P(2, "JPEG")), ["a.png", "b.jfif"], ("jfif",)),
    "no suffix": Odd(_files(a_o_png=P(1), b=P(2, "JPEG")), ["a.png", "b"], ("suffix", "without", "no ending")),
    "only a picture without a suffix": Odd(_files(b=P(2, "JPEG")), ["b"]),
    "a wrong suffix": Odd(_files(a_o_png=P(1, "JPEG")), ["a.png"]),
    "below": Odd(_files(x__y__a_o_png=P(1), a_o_png=P(2)), ["a.png", "x/y/a.png"]),
    "an empty file": Odd(_files(a_o_png=P(1), b_o_png=b""), None, ("b.png", "unreadable")),
    "text for a picture": Odd(_files(a_o_png=P(1), b_o_png=b"what"), None, ("b.png", "unreadable")),
    "a folder called a picture": Odd(_files(a_o_png=P(1), b_o_png=None), ["a.png"]),
    "nothing": Odd(_files(a=None), None),
    "only text": Odd(_files(a_o_txt=b"what"), None),
    "equal pictures": Odd(_files(a_o_png=P(1), b_o_png=P(1)), ["a.png", "b.png"]),
    "a fifo": Odd(_fifo, None, ("b.png", "unreadable", "passed over")),
    "a link": Odd(lambda folder: _link(folder, "{folder}/other.png"), ["a.png", "b.png"]),
    "a link to nothing": Odd(lambda folder: _link(folder, "nowhere"), None, ("b.png", "unreadable", "passed over")),
    "a loop of links": Odd(lambda folder: _link(folder, "b.png"), None, ("b.png", "unreadable", "passed over")),
    "a link to its folder": Odd(lambda folder: _link(folder, "{folder}/photos"), ["a.png"]),
    "a name that is no Unicode": Odd(_named({"a.png": P(1), "caf\udce9.png": P(2)}), None, ("caf", "Unicode")),
    "a break in a name": Odd(_named({"a.png": P(1), "b\nc.png": P(2)}), ["a.png", "b\nc.png"]),
    "names of two forms": Odd(_named({"\u00e9.png": P(1), "e\u0301.png": P(2)}), ["\u00e9.png", "e\u0301.png"]),
    "names that differ by case": Odd(_named({"A.png": P(1), "a.png": P(2)}), ["A.png", "a.png"]),
    "a name of 250 letters": Odd(_named({"x" * 246 + ".png": P(1)}), ["x" * 246 + ".png"]),
    "blanks and signs": Odd(
        _named({" a .png": P(1), "*?[].png": P(2), "#1.png": P(3)}), [" a .png", "*?[].png", "#1.png"]
    ),
    # rows
    "jsonl in capitals": Odd(_lines("rows.JSONL", TEXT), ["a"]),
    "an id of 0": Odd(_lines("rows.jsonl", {"id": 0, "text": "one"}, {"id": 1, "text": "two"}), ["0", "1"]),
    "a text of 0": Odd(_lines("rows.jsonl", TEXT, {"id": "b", "text": "0"}), ["a", "b"]),
    "1 and '1'": Odd(_lines("rows.jsonl", {"id": 1, "text": "one"}, {"id": "1", "text": "two"}), None),
    "an id twice": Odd(_lines("rows.jsonl", TEXT, TEXT), None),
    "no id": Odd(_lines("rows.jsonl", TEXT, {"text": "two"}), None, BAD),
    "an empty id": Odd(_lines("rows.jsonl", TEXT, {"id": "", "text": "two"}), None, BAD),
    "nothing in a row": Odd(_lines("rows.jsonl", TEXT, {"id": "b"}), None, BAD),
    "a lone surrogate": Odd(_lines("rows.jsonl", TEXT, '{"id": "b", "text": "\\ud800"}'), None, BAD),
    "a lone surrogate in an id": Odd(_lines("rows.jsonl", TEXT, '{"id": "\\ud800", "text": "b"}'), None, BAD),
    "a picture that is missing": Odd(_lines("rows.jsonl", TEXT, {"id": "b", "image": "images/9.png"}), None, BAD),
    "an address": Odd(
        _lines("rows.jsonl", TEXT, {"id": "b", "image": "https://example.org/a.png"}),
        None,
        ("row 2", "URL", "unreadable"),
    ),
    "a data URI": Odd(
        _lines("rows.jsonl", TEXT, {"id": "b", "image": "data:image/png;base64,iVBO"}),
        None,
        ("row 2", "URL", "unreadable"),
    ),
    "a broken line": Odd(_lines("rows.jsonl", TEXT, "{broken", {"id": "c", "text": "three"}), None, BAD),
    "a list for a line": Odd(_lines("rows.jsonl", TEXT, "[1]"), None, BAD),
    "words of 30 MB": Odd(_lines("rows.jsonl", TEXT, {"id": "b", "text": "red " * 7_500_000}), None, BAD),
    "words that are special": Odd(_lines("rows.jsonl", {"id": "a", "text": "<|end|><image>"}), ["a"]),
    "a list with junk behind": Odd(_written("rows.json", json.dumps([TEXT]) + " junk"), None),
    "a list of odd things": Odd(_written("rows.json", json.dumps([1, TEXT, "lost"])), None, BAD),
    "one object": Odd(_written("rows.json", json.dumps(TEXT)), ["a"]),
    "an object of lists": Odd(_written("rows.json", json.dumps({"rows": [TEXT]})), None),
    "an empty list": Odd(_written("rows.json", "[]"), None),
    "concatenated objects": Odd(_written("rows.jsonl", json.dumps(TEXT) + '{"id": "b", "text": "two"}\n'), None),
    "csv": Odd(_written("rows.csv", _csv([["id", "text"], ["a", "one"], ["b", "two\nlines"]])), ["a", "b"]),
    "csv in capitals": Odd(_written("rows.CSV", _csv([["id", "text"], ["a", "one"]])), ["a"]),
    "a column twice": Odd(_written("rows.csv", _csv([["id", "text", "text"], ["a", "one", "two"]])), None),
    "cells too many": Odd(_written("rows.csv", _csv([["id", "text"], ["a", "one"], ["b", "two", "x"]])), None, BAD),
    "cells too few": Odd(_written("rows.csv", _csv([["id", "text"], ["a", "one"], ["b"]])), None, BAD),
    "semicolons": Odd(_written("rows.csv", "id;text\na;one\n"), None),
    "an open quote": Odd(_written("rows.csv", 'id,text\na,"one\nb,two\nc,three\n'), None),
    "latin-1": Odd(_written("rows.csv", "id,text\na,one\nb,caf\u00e9\n".encode("latin-1")), None, BAD),
    "utf-16": Odd(_written("rows.csv", "id,text\na,one\n".encode("utf-16")), None),
    "blanks around names of columns": Odd(_written("rows.csv", "id , text\na,one\n"), None),
    # parquet
    "numbers for ids": Odd(_parquet(id=[0, 1], text=["one", "two"]), ["0", "1"]),
    "ids that are null": Odd(_parquet(id=["a", None], text=["one", "two"]), None, BAD),
    "ids that are nan": Odd(_parquet(id=[1.0, float("nan")], text=["one", "two"]), None, BAD),
    "ids that are bytes": Odd(_parquet(id=[b"a", b"b"], text=["one", "two"]), ["a", "b"]),
    "ids that are no text": Odd(_parquet(id=[b"\xff", b"\xfe"], text=["one", "two"]), None, BAD),
    "ids that are lists": Odd(_parquet(id=[["a"], ["b"]], text=["one", "two"]), None, BAD),
    "ids of categories": Odd(_dictionary(), ["a", "b", "a2"]),
    "ids that are dates": Odd(
        _parquet(id=[datetime.date(2024, 1, 2), datetime.date(2024, 1, 3)], text=["a", "b"]),
        ["2024-01-02", "2024-01-03"],
    ),
    "ids that are decimals": Odd(
        _parquet(id=[decimal.Decimal("1.10"), decimal.Decimal("1.20")], text=["a", "b"]), ["1.10", "1.20"]
    ),
    "texts that are null": Odd(_parquet(id=["a", "b"], text=["one", None]), None, BAD),
    "texts that are numbers": Odd(_parquet(id=["a", "b"], text=[1, 2]), None, BAD),
    "texts that are lists": Odd(_parquet(id=["a", "b"], text=[["one"], ["two"]]), None, BAD),
    "pictures that are lists": Odd(_parquet(id=["a"], image=[[1, 2]]), None, BAD),
    "pictures that are cut": Odd(_parquet(id=["a", "b"], image=[P(1), P(2)[:50]]), None, BAD),
    "doubled columns": Odd(_doubled_parquet(), None),
    "no rows": Odd(_parquet(id=[], text=[]), None),
    # tar
    "a tar": Odd(_tar(("k1.png", P(1)), ("k1.txt", b"x"), ("k2.png", P(2))), ["k1", "k2"]),
    "a tar in capitals": Odd(_tar(("k1.png", P(1)), name="S.TAR"), ["k1"]),
    "pictures in capitals": Odd(_tar(("k1.PNG", P(1)), ("k2.png", P(2))), ["k1", "k2"]),
    "dots in names": Odd(
        _tar(("shoe 22.05.jpg", P(1, "JPEG")), ("shoe 22.06.jpg", P(2, "JPEG"))), None, ("22.05", "22.06")
    ),
    "two pictures": Odd(_tar(("k.front.png", P(1)), ("k.back.png", P(2))), None, ("front", "back")),
    "a member twice": Odd(_tar(("k.png", P(1)), ("k.png", P(2))), None),
    "a sample in two places": Odd(_tar(("k.png", P(1)), ("l.png", P(2)), ("k.txt", b"x")), ["k", "l"], ("k.txt", "k")),
    "folders with equal names": Odd(_tar(("x/k.png", P(1)), ("y/k.png", P(2))), ["x/k", "y/k"]),
    "a member that is a link": Odd(_special_tar(tarfile.SYMTYPE), None, ("b.png", "no part of a sample")),
    "a member that is a hard link": Odd(_special_tar(tarfile.LNKTYPE), None, ("b.png", "no part of a sample")),
    "a member that is a device": Odd(_special_tar(tarfile.CHRTYPE), None, ("b.png", "no part of a sample")),
    "a member that is a fifo": Odd(_special_tar(tarfile.FIFOTYPE), None, ("b.png", "no part of a sample")),
    "a folder in it": Odd(_special_tar(tarfile.DIRTYPE, "sub"), ["a"]),
    "an absolute member": Odd(_tar(("/etc/k.png", P(1))), ["/etc/k"]),
    "a member outside": Odd(_tar(("../k.png", P(1))), ["../k"]),
    "a long name": Odd(
        _tar(
            ("x" * 300 + ".png", P(1)),
        ),
        ["x" * 300],
    ),
    "an empty member": Odd(_tar(("k.png", P(1)), ("l.png", b"")), None, BAD),
    "no picture in a sample": Odd(_tar(("k.png", P(1)), ("l.txt", b"words")), None, ("row 2", "l")),
    "no members": Odd(_tar(), None),
    "compressed": Odd(_written("s.tar.gz", gzip.compress(tar_of([("k.png", P(1))]))), None),
    "compressed, called tar": Odd(_written("s.tar", gzip.compress(tar_of([("k.png", P(1))]))), None),
    "two tars in one": Odd(_written("s.tar", tar_of([("k.png", P(1))]) + tar_of([("l.png", P(2))])), None),
    "a zip": Odd(_written("s.zip", b"PK\3\4" + bytes(40)), None),
    # together
    "two sources": Odd(_two(_files(a_o_png=P(1)), "rows.jsonl", [{"id": "b", "text": "two"}]), ["a.png", "b"]),
    "an id in two sources": Odd(_two(_files(a_o_png=P(1)), "rows.jsonl", [{"id": "a.png", "text": "two"}]), None),
    "a source twice": Odd(lambda folder: [*_files(a_o_png=P(1))(folder), folder / "photos"], None),
    "options beside pictures": Odd(lambda folder: [*_files(a_o_png=P(1))(folder), "--fields", "id=sku"], None),
    "pictures and rows in one folder": Odd(
        _files(a_o_png=P(1), rows_o_jsonl=b'{"id": "b", "text": "two"}\n'), None, ("jsonl",)
    ),
    "tables of two kinds in one folder": Odd(
        _files(a_o_jsonl=b'{"id": "a", "text": "one"}\n', b_o_csv=b"id,text\nb,two\n"), None, ("csv",)
    ),
    "a pattern of two kinds": Odd(_pattern, None),
    "a pattern of nothing": Odd(lambda folder: [folder / "*.parquet"], None),
    "an address for a source": Odd(lambda folder: ["https://example.org/rows.parquet"], None),
    "a bucket for a source": Odd(lambda folder: ["s3://bucket/photos"], None),
}
CASES = [Case(f"a source, {name}", name) for name in SOURCES]


@pytest.mark.slow
def test_odd_sources(tmp_path: Path, tiny_llava: Path) -> None:
    def judge(case: Case) -> str:
        odd, folder = SOURCES[case.what], tmp_path / "source"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        words = [os.fspath(word) for word in odd.make(folder)]
        line = ["encode", *words, "--output", str(folder / "store"), "--model", str(tiny_llava), "--dtype", "float32"]
        code, said = _run(line)
        if code == 2:
            told = [text for text in said.splitlines() if text.startswith("error: ") or ": error: " in text]
            assert len(told) == 1, f"no sentence: {said[-300:]}"
            expect(odd.ids is None or bool(odd.named), f"refused: {told[0][:200]}")
            return TOLD
        expect(code == 0, f"exit code {code}: {said[-200:]}")
        store = VectorStore.open(folder / "store")
        if odd.ids is not None and sorted(store.living) == sorted(odd.ids):
            return RIGHT
        listed = folder / "store/unreadable.jsonl"
        said += listed.read_text() if listed.is_file() else ""
        mentioned = any(word in said for word in odd.named)
        expect(mentioned, f"stored {sorted(store.living)}, not {odd.ids}, and says: {_last(said)}")
        return SKIPPED

    sift("sources", CASES, judge)


def _last(said: str) -> str:
    return " | ".join(line for line in said.splitlines() if "%|" not in line)[-300:]


def _run(line: Sequence[str]) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = main(line)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue()
