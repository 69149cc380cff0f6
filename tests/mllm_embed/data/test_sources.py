"""What encode reads: every kind of source, and one sentence for each mistake, before a model is loaded."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from mllm_embed.data.sources import open_sources, picture_at
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.inputs.images import load_image
from mllm_embed.types import Document, Query

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, colour in (("b.png", "red"), ("more/a.png", "green"), ("c.png", "blue")):
        (folder / name).write_bytes(png(colour))
    return folder


def add_members(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_a_folder_of_pictures(photos: Path) -> None:
    listing = open_sources([photos])
    assert listing.ids == ["b.png", "c.png", "more/a.png"]
    assert listing.read(2) == (Document(photos / "more/a.png"), str(photos / "more/a.png"))
    assert open_sources([f"{photos}/*.png"]).ids == [f"{photos}/b.png", f"{photos}/c.png"]
    before = listing.facts()[0]["fingerprint"]
    assert open_sources([photos]).facts()[0]["fingerprint"] == before
    (photos / "c.png").write_bytes(png("red") + b"more")
    assert open_sources([photos]).facts()[0]["fingerprint"] != before


def test_rows_of_json_lines(photos: Path) -> None:
    rows = [
        {"id": 7, "image": "b.png"},
        {"image": "more/a.png", "text": "a green one"},
        {"id": "q", "image": "c.png", "instruction": "make it red", "text": ""},
        {"id": "t", "text": "words alone", "image": None},
    ]
    (photos / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    listing = open_sources([photos / "rows.jsonl"])
    assert listing.ids == ["7", "more/a.png", "q", "t"]
    assert listing.read(0) == (Document(photos / "b.png"), str(photos / "b.png"))
    assert listing.read(1)[0] == Document(photos / "more/a.png", "a green one")
    assert listing.read(2)[0] == Query(photos / "c.png", "make it red")
    assert listing.read(3) == (Document(text="words alone"), None)
    some = open_sources([photos / "rows.jsonl"], {"image": "image", "text": "id"})
    assert some.read(2)[0] == Document(photos / "c.png", "q") and some.ids[2] == "q"
    assert listing.where(2) == f"{photos / 'rows.jsonl'}: row 3"


def test_rows_of_parquet(tmp_path: Path) -> None:
    table = {"sku": ["x", "y"], "photo": [{"bytes": png("red"), "path": "r.png"}, {"bytes": png("blue"), "path": None}]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "shop.parquet")
    listing = open_sources([tmp_path], {"id": "sku", "image": "photo"})
    assert listing.ids == ["x", "y"]
    item, place = listing.read(1)
    assert load_image(item.images[0]).getpixel((0, 0)) == COLOURS["blue"]
    assert load_image(picture_at(place)).getpixel((0, 0)) == COLOURS["blue"]
    (tmp_path / "shop.parquet").unlink()
    with pytest.raises(DataError, match="shop.parquet is gone, which held the picture"):
        picture_at(place)


def test_samples_of_tar_shards(tmp_path: Path, photos: Path) -> None:
    add_members(tmp_path / "0.tar", {"k1.png": png("red"), "k1.txt": b"a red one", "k2.png": png("green")})
    add_members(tmp_path / "1.tar", {"k3.png": png("blue"), "k3.json": b"{}"})
    listing = open_sources([f"{tmp_path}/*.tar", photos])
    assert listing.ids[:4] == ["k1", "k2", "k3", "b.png"]
    item, place = listing.read(2)
    assert item.role == "image" and load_image(item.images[0]).getpixel((0, 0)) == COLOURS["blue"]
    assert load_image(picture_at(place)).getpixel((0, 0)) == COLOURS["blue"]
    told = open_sources([tmp_path / "0.tar"], {"image": "png", "text": "txt"})
    assert told.read(0)[0].text == "a red one" and load_image(picture_at(told.read(1)[1])).size == (8, 8)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ('{"id": "a", "image": "b.png"}\n{"id": "a", "image": "c.png"}', '"a" is given twice, by .*row 1 and .*row 2'),
        ('{"id": "a"}', 'rows.jsonl: row 1 has neither "image" nor "text" nor "instruction"; name its columns'),
        ('{"id": "a", "img": "b.png"}', "--fields; did you mean 'img'?"),
        ('{"text": "a dog"}', 'rows.jsonl: row 1 has no "id"; name the column with --fields id='),
        ('{"id": "a", "image": "b.png"}\n{"id": ', "rows.jsonl: row 2: it is not JSON"),
    ],
)  # fmt: skip
def test_mistakes_in_rows(tmp_path: Path, rows: str, words: str) -> None:
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(DataError, match=words):
        open_sources([tmp_path / "rows.jsonl"])


def test_mistakes_in_what_is_given(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist, and matches no file"):
        open_sources([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty folder"):
        open_sources([tmp_path / "empty"])
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(DataError, match="notes.doc leads to files of .doc; give files of one of .jpg"):
        open_sources([tmp_path / "notes.doc"])
    with pytest.raises(DataError, match='the id "b.png" is given twice'):
        open_sources([photos, photos])
    with pytest.raises(ConfigError, match="--fields: there is no 'picture'; a row has id, image"):
        open_sources([photos], {"picture": "x"})
    with pytest.raises(ConfigError, match="--fields names nothing to embed"):
        open_sources([photos], {"id": "x"})
    (photos / "rows.jsonl").write_text('{"id": "n", "image": 3}')
    with pytest.raises(DataError, match='row 1: "image" is an int, not a path or the bytes of a picture'):
        open_sources([photos / "rows.jsonl"]).read(0)
