"""Triplets of captions from any source that training reads, in a folder of their own, and trained on from there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mllm_embed.data.folder import DataFolder
from mllm_embed.inputs.images import content_key
from mllm_embed.training.cli import main
from mllm_embed.training.data import TrainingRow
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.source import DataSource
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run.stages import run_recipe
from servers.chat import Server


class Pairs:
    """The tiny data folder's pictures and captions, written in the ways that data sets are."""

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = folder, root
        self.pairs = [(pair.image.name, pair.caption) for pair in DataFolder.open(folder).pairs]

    def content(self, name: str) -> bytes:
        return (self.folder / "images" / name).read_bytes()

    def llava(self) -> list[str]:
        turns = [[{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}] for _, text in self.pairs]
        rows = [
            {"id": name, "image": name, "conversations": turn}
            for (name, _), turn in zip(self.pairs, turns, strict=True)
        ]
        (self.root / "chat.json").write_text(json.dumps(rows))
        return ["chat.json", "--format", "llava", "--images", "halves/images"]

    def tsv(self) -> list[str]:
        lines = [f"{text}\thalves/images/{name}\n" for name, text in self.pairs]
        (self.root / "cc3m.tsv").write_text("".join(lines))
        return ["cc3m.tsv", "--format", "tsv"]

    def csv(self) -> list[str]:
        lines = ["words,file\n", *(f"{text},images/{name}\n" for name, text in self.pairs)]
        (self.folder / "captions.csv").write_text("".join(lines))
        return ["halves/captions.csv", "--column", "image=file", "--column", "caption=words"]

    def parquet(self) -> list[str]:
        pictures = [{"bytes": self.content(name), "path": name} for name, _ in self.pairs]
        table = {"picture": pictures, "texts": [[text, text] for _, text in self.pairs]}
        (self.root / "shards").mkdir()
        pq.write_table(pa.table(table), self.root / "shards/a.parquet")
        return ["shards/*.parquet", "--column", "image=picture", "--column", "caption=texts"]

    def tar(self) -> list[str]:
        with tarfile.open(self.root / "a.tar", "w") as shard:
            for number, (name, text) in enumerate(self.pairs):
                for ending, content in (("png", self.content(name)), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{number:04}.{ending}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
        return ["a.tar", "--column", "image=png", "--column", "caption=txt"]

    def yaml(self) -> list[str]:
        """Two sources: the folder, and its pictures again as bytes, with another caption."""
        self.pairs = [(name, f"{text}, again") for name, text in self.pairs]
        path = self.parquet()[0]
        sources = ["halves", {"path": path, "format": "columns", "columns": {"image": "picture", "caption": "texts"}}]
        (self.root / "sources.yaml").write_text(yaml.safe_dump(sources))
        return ["sources.yaml"]


@pytest.fixture
def pairs(captions: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    monkeypatch.chdir(captions.parent)
    return Pairs(captions, captions.parent)


@pytest.fixture
def make(server: Server, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs make-triplets, and gives the source that it tells to train on."""

    def run(*words: str) -> dict[str, Any]:
        assert main(["make-triplets", *words, "--endpoint", server.url, "--model", "m"]) == 0
        told = yaml.safe_load(capsys.readouterr().out.partition("train on them with\n")[2])
        (term,) = told["terms"]
        assert told["rows"] == "triplets" and term["positive"] == "target_text"
        (source,) = told["data"]
        return source

    return run


def triplets(*sources: dict[str, Any]) -> list[TrainingRow]:
    return list(open_rows([DataSource(**source) for source in sources], "triplets", ["composed", "target_text"]))


FILES, BYTES = ("llava", "tsv", "csv"), ("parquet", "tar")


@pytest.mark.parametrize("kind", [*FILES, *BYTES, "yaml"])
def test_any_source_of_pairs_gives_triplets_that_training_reads(
    pairs: Pairs, server: Server, make: Callable[..., dict[str, Any]], kind: str
) -> None:
    words = getattr(pairs, kind)()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    rows = triplets(make(*words, "--output", "made"))
    there = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert before.items() <= there.items() and all(path.parts[0] == "made" for path in there.keys() - before.keys())
    expected = [(pair.image.name, pair.caption) for pair in DataFolder.open("halves").pairs] if kind == "yaml" else []
    expected += pairs.pairs
    assert len(rows) == 3 * len(expected) and len({row.id for row in rows}) == len(rows)
    for row, (name, caption) in zip(rows[::3], expected, strict=True):
        (picture,) = row.roles["composed"].images
        assert content_key(picture) == hashlib.sha256(pairs.content(name)).hexdigest()
        assert row.roles["source_text"].text == caption
        assert (row.roles["composed"].instruction, row.roles["target_text"].text) == (
            "have it in pink",
            f"{caption}, all pink",
        )
    assert sorted(server.asked) == sorted(caption for _, caption in expected)

    written = {path: path.stat().st_mtime_ns for path in Path("made/images").rglob("*") if path.is_file()}
    assert len(written) == (0 if kind in FILES else len(pairs.pairs))
    assert all(path.name == f"{hashlib.sha256(path.read_bytes()).hexdigest()}.png" for path in written)
    first = Path("made/triplets.jsonl").read_bytes()
    make(*words, "--output", "made")  # nothing is asked, and no picture written, again
    assert set(server.asked.values()) == {1} and Path("made/triplets.jsonl").read_bytes() == first
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())


def test_the_printed_line_is_as_short_as_it_can_be(pairs: Pairs, make: Callable[..., dict[str, Any]]) -> None:
    assert make("halves") == {"path": "halves"}
    assert make("halves", "--output", "one") == {"path": "one", "images": "halves"}
    assert make(*pairs.parquet(), "--output", "two") == {"path": "two"}
    assert make(*pairs.csv(), "--output", "three words") == {"path": "three words", "images": "halves"}
    assert json.loads(Path("one/triplets.jsonl").read_text().splitlines()[0])["image"] == "images/0.png"
    pictures = str(Path("halves/images").absolute())
    assert make(*pairs.llava()[:-1], pictures, "--output", "four") == {"path": "four", "images": pictures}


def test_pictures_of_several_places_have_one_start(pairs: Pairs, make: Callable[..., dict[str, Any]]) -> None:
    shutil.copytree("halves", "elsewhere/deep")
    os.symlink(Path("elsewhere").absolute(), "link")
    source = make("halves", "link/deep", "--output", "made")
    assert source == {"path": "made", "images": os.getcwd()}
    rows = triplets(source)
    # the same questions about the same captions come once, and the ids of the second folder are not the first's
    assert {row.roles["composed"].images[0] for row in rows} == {
        Path.cwd() / f"halves/images/{n}.png" for n in range(8)
    }


def test_beside_triplets_of_people(
    data: Path,
    server: Server,
    refused: Callable[..., str],
    make: Callable[..., dict[str, Any]],
    tiny_llava: Path,
    tmp_path: Path,
) -> None:
    own = (data / "triplets.jsonl").read_bytes()
    assert "give another folder with --output" in refused(str(data), "--endpoint", server.url, "--model", "m")
    source = make(str(data), "--output", str(tmp_path / "made"))
    assert (data / "triplets.jsonl").read_bytes() == own and not (data / "triplets.report.json").exists()
    term = {"query": "composed", "positive": "target_text"}
    stage = {
        "data": [{"path": str(data), "weight": 1}, source | {"weight": 1}],
        "rows": "triplets",
        "terms": [term],
        "batch_size": 4,
        "steps": 2,
    }
    recipe = {"model": str(tiny_llava), "output": str(tmp_path / "run"), "bf16": False, "stages": {"both": stage}}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(recipe))
    run_recipe(load_recipe(tmp_path / "both.yaml"))
    assert (tmp_path / "run/both/adapter_model.safetensors").is_file()


def test_rows_that_cannot_be_read_are_told_and_have_none(
    pairs: Pairs, make: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = pairs.llava()
    rows = json.loads(Path("chat.json").read_text())
    rows[2]["image"], rows[5]["conversations"] = "gone.png", []
    Path("chat.json").write_text(json.dumps([*rows, rows[0]]))
    assert len(triplets(make(*words, "--output", "made"))) == 3 * 6
    told = json.loads(Path("made/triplets.report.json").read_text())
    assert told["unreadable"]["count"] == 2
    assert told["unreadable"]["example"].startswith("chat.json: row 3: halves/images/gone.png does not")
    assert told["dropped"]["repeated"]["count"] == 3  # the row that stands twice


def test_ids_that_come_twice_stay_apart(pairs: Pairs, make: Callable[..., dict[str, Any]]) -> None:
    words = pairs.llava()
    rows = json.loads(Path("chat.json").read_text())
    Path("chat.json").write_text(json.dumps([{**row, "id": "same"} for row in rows]))
    ids = [row.id for row in triplets(make(*words, "--output", "made"))]
    assert ids[::3] == ["same-1", *(f"same~{number}-1" for number in range(2, 9))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chat.json", "--format", "llava", "--images", "halves/images"], "say with --output"),
        (["halves", "--output", "full"], "full/pairs.jsonl names pictures of full, and those of the triplets lie in"),
        (["halves", "--output", "halves/pairs.jsonl"], "pairs.jsonl"),
        (["cirr.json", "--format", "cirr", "--output", "made"], "format cirr gives triplets, not pairs"),
        (["chat.json", "--format", "llava", "--images", "none", "--output", "made"], "does not exist"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    pairs: Pairs, server: Server, refused: Callable[..., str], words: list[str], said: str
) -> None:
    pairs.llava()
    shutil.copytree("halves", "full")
    Path("cirr.json").write_text("[]")
    assert said in refused(*words, "--endpoint", server.url, "--model", "m")
    assert not server.asked and not Path("made").exists() and not Path("full/triplets.jsonl").exists()


def test_a_folder_of_photographs_and_a_table_is_told_how_it_is_read(
    pairs: Pairs, make: Callable[..., dict[str, Any]], refused: Callable[..., str]
) -> None:
    photos = Path("my photos")
    photos.mkdir()
    names = [f"Grüße {number} (2).JPG" for number in range(7)]
    for name, (file, _) in zip(names, pairs.pairs, strict=False):
        (photos / name).write_bytes(pairs.content(file))
    (photos / "IMG_0007.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    lines = [f"{name},a thing of kind {number}\n" for number, name in enumerate([*names, "IMG_0007.HEIC"])]
    (photos / "captions.csv").write_text("".join(["filename,description\n", *lines]))
    told = refused(str(photos), "--dry-run")
    assert "my photos is no data folder: it holds none of pairs.jsonl" in told
    assert "give its captions.csv as {path: my photos/captions.csv, format: columns, columns: {image: ..., capt" in told
    words = [str(photos / "captions.csv"), "--column", "image=filename", "--column", "caption=description"]
    rows = triplets(make(*words, "--output", "made"))
    assert [row.roles["composed"].images[0].name for row in rows[::3]] == names
    report = json.loads(Path("made/triplets.report.json").read_text())
    assert report["unreadable"]["count"] == 1 and "IMG_0007.HEIC is not a JPEG" in report["unreadable"]["example"]
