"""Searching a folder of pictures with a real tiny model, in code and from the command line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_embed.cli import main
from mllm_embed.data.filters import parse_filter
from mllm_embed.data.sources import gallery_of
from mllm_embed.encode.embedder import MLLMEmbedder
from mllm_embed.errors import DataError
from mllm_embed.search.searcher import Searcher
from mllm_embed.store.gallery import MemoryGallery
from mllm_embed.types import Document, Query


@pytest.fixture(scope="module")
def embedder(tiny_llava: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(tiny_llava)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("c.png", "a.png", "more/b.webp", "more/d.JPG"):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_of_pictures_is_found_by_its_own_pictures(embedder: MLLMEmbedder, photos: Path) -> None:
    searcher = Searcher.from_folder(embedder, photos, show_progress=False)
    assert searcher.gallery.ids == ["a.png", "c.png", "more/b.webp", "more/d.JPG"]
    for name in searcher.gallery.ids:
        hits = searcher.search(Query(image=photos / name), k=2)
        assert (hits[0].id, hits[0].image) == (name, photos / name)
        assert hits[0].score == pytest.approx(1, abs=1e-4)
        assert hits[0].score >= hits[1].score
        assert name not in [hit.id for hit in searcher.search(Query(image=photos / name), k=9, exclude=[name])]


def test_hits_are_the_nearest_vectors(embedder: MLLMEmbedder, photos: Path) -> None:
    searcher = Searcher.from_folder(embedder, photos, show_progress=False)
    query = Query(image=photos / "a.png", instruction="make it blue")
    scores = searcher.gallery.vectors @ embedder.encode([query], show_progress=False)[0]
    hits = searcher.search(query, k=10)
    assert [hit.id for hit in hits] == [searcher.gallery.ids[at] for at in np.argsort(-scores, kind="stable")]
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)


def test_a_search_is_narrowed_by_metadata_and_tells_it(embedder: MLLMEmbedder, photos: Path) -> None:
    files = {name: photos / name for name in ("a.png", "c.png", "more/b.webp")}
    vectors = embedder.encode([Document(image=file) for file in files.values()], show_progress=False)
    rows = [{"price": 1}, {"price": 2, "colour": "red"}, {}]
    searcher = Searcher(embedder, MemoryGallery(list(files), vectors, list(files.values()), metadata=rows))
    searcher.add({"d": photos / "more/d.JPG"}, metadata={"d": {"price": 0.5}})
    cheap = parse_filter({"price": {"<": 2}})
    query = Query(image=photos / "c.png", instruction="make it blue")
    whole = searcher.search(query, 9)
    assert {hit.id: hit.metadata for hit in whole} == {**dict(zip(files, rows, strict=True)), "d": {"price": 0.5}}
    narrow = [hit for hit in whole if hit.id in ("a.png", "d")]
    assert searcher.search(query, 9, where=cheap) == narrow == searcher.search_many([query], 9, where=cheap)[0]
    assert searcher.search(query, 1, where=cheap) == narrow[:1]
    assert searcher.search(query, 9, [narrow[0].id], where=cheap) == narrow[1:]
    red = {"colour": "red"}
    assert [hit.id for hit in searcher.search_many([query], 9, where=red)[0]] == ["c.png"]
    assert searcher.search(query, 9, where=red, exclude_reference=True) == []
    with pytest.raises(DataError, match='metadata of "f" is given, and no picture of that id'):
        searcher.add({"e": photos / "a.png"}, metadata={"f": {}})


def test_a_benchmark_folder_gives_its_gallery(photos: Path) -> None:
    gallery = [{"id": "z", "image": "more/b.webp"}, {"id": "y", "image": "a.png"}]
    queries = [{"id": "q", "image": "c.png", "instruction": "x", "targets": ["y"]}]
    text = json.dumps({"name": "n", "gallery": gallery, "queries": queries})
    (photos / "benchmark.json").write_text(text)
    assert gallery_of(photos) == {"z": photos / "more/b.webp", "y": photos / "a.png"}


def test_galleries_that_do_not_fit_are_refused(embedder: MLLMEmbedder, tmp_path: Path, photos: Path) -> None:
    vectors = np.eye(2, embedder.dimension, dtype=np.float32)
    with pytest.raises(DataError, match='id "a" is given twice'):
        MemoryGallery(["a", "a"], vectors, ["x", "y"])
    with pytest.raises(DataError, match="2 ids, 1 pictures and 2 vectors"):
        MemoryGallery(["a", "b"], vectors, ["x"])
    with pytest.raises(DataError, match="gallery is empty"):
        MemoryGallery([], vectors[:0], [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty folder"):
        Searcher.from_folder(embedder, tmp_path / "empty")
    searcher = Searcher(embedder, MemoryGallery(["a", "b"], vectors, ["x", "y"]))
    with pytest.raises(DataError, match='the id "c" is not in the gallery of 2 pictures'):
        searcher.search(Query(instruction="x"), exclude=["c"])
    with pytest.raises(DataError, match="k must be at least 1"):
        searcher.search(Query(instruction="x"), k=0)


def test_the_command_prints_a_table_and_writes_a_sheet(
    tiny_llava: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photos / "a.png", photos / "copy.png")
    sheet = tmp_path / "out" / "sheet.png"
    arguments = ["search", "--model", str(tiny_llava), "--gallery", str(photos), "--output", str(sheet)]
    reference = ["--image", str(photos / "a.png"), "-k", "3"]
    assert main([*arguments, *reference]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["rank", "score", "id", "file"]
    assert {line.split()[2] for line in lines[:2]} == {"a.png", "copy.png"}
    assert [line.split()[0] for line in lines[:3]] == ["1", "2", "3"]
    assert lines[-1] == f"wrote {sheet}"
    with Image.open(sheet) as image:
        assert image.format == "PNG"
    assert main([*arguments, *reference, "--instruction", "make it blue", "--exclude-reference"]) == 0
    found = [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:4]]
    assert sorted(found) == ["c.png", "more/b.webp", "more/d.JPG"]
    assert main([*arguments, "--instruction", "a red shoe", "-k", "1"]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--image", "none.png"], "none.png"),
        (["--image", "notes.txt"], "notes.txt"),
        ([], "give --image, --instruction, or both"),
        (["--instruction", " "], ""),
        (["--instruction", "x", "-k", "0"], "-k must be at least 1, not 0"),
        (["--instruction", "x", "--exclude-reference"], "--exclude-reference needs --image"),
        (["--instruction", "x", "--output", "sheet.jpg"], "must end in .png"),
        (["--instruction", "x", "--gallery", "none"], "none is missing"),
        (["--instruction", "x", "--gallery", "more/empty"], "empty folder more/empty"),
        (["--instruction", "x", "--model", "none/at/all"], "none/at/all"),
        (["--instruction", "x", "--gallery", "broken"], "text.png"),
    ],
)
def test_bad_input_gives_one_sentence_and_exit_code_2(
    tiny_llava: Path,
    photos: Path,
    changes: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (photos / "more/empty").mkdir()
    (photos / "broken").mkdir()
    (photos / "broken/text.png").write_text("text named as a picture")
    monkeypatch.chdir(photos)
    arguments = ["search", "--model", str(tiny_llava), "--gallery", "more", "--output", "new/sheet.png"]
    assert main([*arguments, *changes]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (photos / "new").exists()


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["search", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--exclude-reference" in text and "mllm-embed search --model" in text


@pytest.mark.parametrize("query_image", [None, "Find what is like this:"])
def test_a_stronger_edit_moves_the_query_along_its_own_direction(
    embedder: MLLMEmbedder, photos: Path, query_image: str | None
) -> None:
    embedder = embedder.with_prompts(replace(embedder.prompts, query_image=query_image))
    searcher = Searcher.from_folder(embedder, photos, show_progress=False)
    query, alone = Query(image=photos / "a.png", instruction="make it blue"), Query(image=photos / "c.png")
    q, v, w = embedder.encode([query, Query(image=photos / "a.png"), alone], show_progress=False).astype(float)
    moved = v + 1.5 * (q - v)
    scores = sorted(searcher.gallery.vectors @ (moved / np.linalg.norm(moved)), reverse=True)
    found = [hit.score for hit in searcher.search(query, k=9, edit_strength=1.5)]
    assert found == pytest.approx(scores, abs=1e-5)
    many = searcher.search_many([alone, query], k=9, edit_strength=1.5)
    assert [hit.score for hit in many[1]] == pytest.approx(scores, abs=1e-5)
    assert [hit.score for hit in many[0]] == pytest.approx(sorted(searcher.gallery.vectors @ w)[::-1], abs=1e-5)


def test_what_a_query_avoids_is_taken_off_it_and_not_off_its_picture(embedder: MLLMEmbedder, photos: Path) -> None:
    searcher = Searcher.from_folder(embedder, photos, show_progress=False)
    query = Query(image=photos / "a.png", instruction="make it blue", avoid="a shoe")
    q, v = embedder.encode([query, Query(image=photos / "a.png")], show_progress=False)
    edited = q / 2 + v / 2
    scores = sorted(searcher.gallery.vectors @ (edited / np.linalg.norm(edited)), reverse=True)
    found = [hit.score for hit in searcher.search(query, k=9, edit_strength=0.5)]
    assert found == pytest.approx(scores, abs=1e-5)
    [many] = searcher.search_many([query], k=9, edit_strength=0.5)
    assert [hit.score for hit in many] == pytest.approx(scores, abs=1e-5)
    assert searcher.search_many([]) == []
