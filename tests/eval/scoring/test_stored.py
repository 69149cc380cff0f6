"""Stores in the place of files of vectors: the figures of `run`, and never the vector of another thing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mllm_embed.cli
from eval.benchmarks import open_suite
from eval.cli import main
from eval.scoring.rows import words_of_its_own, write_rows
from eval.scoring.score import Vectors, score
from eval.scoring.stored import holds_stores, read_stored
from eval.scoring.suite import Suite
from made_benchmarks import CATEGORIES, WRITERS, fashioniq_files
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.vectors.unit import unit

WIDTH = 16
KNOWN = {"weights": "w", "adapter_settings": None, "processor": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A benchmark of one's own, with captions: two tasks that search one gallery."""
    root, rng = tmp_path / "bench", np.random.default_rng(0)
    root.mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(root / f"{number}.png")
    texts = [{"text": "sold out"} if at == 2 else {} for at in range(6)]
    gallery = [{"id": f"g{at}", "image": f"{at}.png", "caption": f"number {at}", **texts[at]} for at in range(6)]
    words = [f"next {at}" for at in range(5)]
    queries = [
        {"id": f"q{at}", "image": f"{at}.png", "instruction": text, "targets": [f"g{at + 1}"]}
        for at, text in enumerate(words)
    ]
    (root / "benchmark.json").write_text(json.dumps({"name": "mine", "gallery": gallery, "queries": queries}))
    return root


@pytest.fixture
def cirr(tmp_path: Path) -> Path:
    """CIRR's validation files in small, with their pictures."""
    root = tmp_path / "cirr"
    names = [f"dev-{number}" for number in range(24)]
    for part in ("captions", "image_splits", "dev"):
        (root / part).mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number * 10, 90, 255 - number * 10)).save(root / "dev" / f"{name}.png")
    rows = [
        {
            "pairid": 100 + at,
            "reference": names[at],
            "caption": f"brighter by {at}",
            "img_set": {"members": names[at : at + 6]},
            "target_hard": names[at + 1],
            "target_soft": {names[at + 1]: 1.0},
        }
        for at in range(0, 18, 6)
    ]
    (root / "captions/cap.rc2.val.json").write_text(json.dumps(rows))
    (root / "image_splits/split.rc2.val.json").write_text(json.dumps({name: f"./dev/{name}.png" for name in names}))
    return root


def result(folder: Path) -> dict[str, object]:
    """Return what was measured of the queries of each task, without their halves."""
    tasks = json.loads((folder / "result.json").read_text())["tasks"]
    return {name: next(iter(task["rows"].items())) for name, task in tasks.items()}


def encode(model: Path, store: Path, *sources: Path) -> None:
    given = [str(source) for source in sources]
    assert mllm_embed.cli.main(["encode", *given, "--output", str(store), "--model", str(model)]) == 0


@pytest.mark.parametrize("benchmark", ["folder", "cirr"])
def test_stores_of_the_rows_score_as_the_run_did(
    request: pytest.FixtureRequest, tiny_llava: Path, tmp_path: Path, benchmark: str
) -> None:
    root = request.getfixturevalue(benchmark)
    data = [str(root)] if benchmark == "folder" else ["cirr", "--data", str(root)]
    rows, out = tmp_path / "rows", tmp_path / "out"
    assert main(["run", *data, "--model", str(tiny_llava), "--output", str(out / "run"), "--sheet", "0"]) == 0
    assert main(["rows", *data, "--output", str(rows)]) == 0
    encode(tiny_llava, tmp_path / "gallery", rows / "gallery.jsonl")
    encode(tiny_llava, tmp_path / "queries", *rows.rglob("queries.jsonl"))
    given = ["--vectors", str(tmp_path / "gallery"), "--queries", str(tmp_path / "queries")]
    assert main(["score", *data, *given, "--output", str(out / "two")]) == 0
    assert result(out / "two") == result(out / "run")
    for name in ("gallery", "queries"):
        export = ["export", str(tmp_path / name), "--to", "npy", "--output", str(tmp_path / f"{name}-npy")]
        assert mllm_embed.cli.main(export) == 0
    if benchmark == "cirr":  # one store of both, and what was exported of two
        encode(tiny_llava, tmp_path / "gallery", rows / "queries.jsonl")
        assert main(["score", *data, "--vectors", str(tmp_path / "gallery"), "--output", str(out / "one")]) == 0
        exported = ["--vectors", str(tmp_path / "gallery-npy"), "--queries", str(tmp_path / "queries-npy")]
        assert main(["score", *data, *exported, "--output", str(out / "npy")]) == 0
        assert result(out / "one") == result(out / "npy") == result(out / "run")


def made(path: Path, ids: list[str], seed: int = 0, width: int = WIDTH, **made_by: object) -> np.ndarray:
    """Make a store of ids, in an order of its own, and return their vectors."""
    vectors = unit(np.random.default_rng(seed).standard_normal((len(ids), width)).astype(np.float32))
    store = VectorStore.create(path, width, provenance=made_by)
    store.add([*ids[::-1], "nobody asks"], np.concatenate([vectors[::-1], vectors[:1]]))
    return vectors


@pytest.fixture
def fashioniq(tmp_path: Path) -> Suite:
    return open_suite("fashioniq", fashioniq_files(tmp_path / "fiq"), pictures=False)


def test_tasks_have_stores_of_their_own(fashioniq: Suite, tmp_path: Path) -> None:
    expected = {}
    galleries = made(tmp_path / "g", [name for task in fashioniq.tasks for name in task.gallery_ids])
    for number, task in enumerate(fashioniq.tasks):
        queries = made(tmp_path / "q" / task.name, list(task.query_ids), number + 1)
        start = sum(len(other.gallery_ids) for other in fashioniq.tasks[:number])
        gallery = galleries[start : start + len(task.gallery_ids)]
        expected[task.name] = Vectors(gallery, {"composed": queries})
    assert not holds_stores(tmp_path, fashioniq) and holds_stores(tmp_path / "q", fashioniq)
    found = read_stored(tmp_path / "g", tmp_path / "q", fashioniq)
    assert tuple(found) == CATEGORIES
    for name, own in expected.items():
        assert (found[name].gallery == own.gallery).all()
        assert (found[name].rows["composed"] == own.rows["composed"]).all()
    assert score(fashioniq, found).tasks == score(fashioniq, expected).tasks


def test_one_vector_never_stands_for_two_things(fashioniq: Suite, tmp_path: Path) -> None:
    made(tmp_path / "g", [name for task in fashioniq.tasks for name in task.gallery_ids])
    made(tmp_path / "q", list(fashioniq.tasks[-1].query_ids))  # 0, 1, ... of dress, of shirt, and of toptee
    with pytest.raises(DataError, match='"0" is one thing in the queries of task dress and another in'):
        read_stored(tmp_path / "g", tmp_path / "q", fashioniq)


def test_what_is_missing_or_does_not_fit_is_named(suites: dict[str, Suite], tmp_path: Path) -> None:
    suite = suites["cirr"]
    task = suite.tasks[0]
    gallery, queries = list(task.gallery_ids), list(task.query_ids)
    made(tmp_path / "g", gallery, **KNOWN, base="one")
    with pytest.raises(DataError, match=r'g lacks 100 of 100 ids of the queries of the benchmark, the first is "0"'):
        read_stored(tmp_path / "g", None, suite)
    made(tmp_path / "short", gallery[:-2])
    with pytest.raises(DataError, match=r'short lacks 2 of 120 ids of the gallery .* "dev-118"; see `mllm'):
        read_stored(tmp_path / "short", None, suite)
    made(tmp_path / "narrow", queries, width=8)
    with pytest.raises(DataError, match="g has 16 dimensions and .*narrow 8"):
        read_stored(tmp_path / "g", tmp_path / "narrow", suite)
    made(tmp_path / "other", queries, **KNOWN, base="two")
    with pytest.raises(ConfigError, match="the queries of .*other are of another model than the gallery"):
        read_stored(tmp_path / "g", tmp_path / "other", suite)
    with pytest.raises(DataError, match="nowhere is no store"):
        read_stored(tmp_path / "g", tmp_path / "nowhere", suite)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("ids.json", ["a", "b", "a"], 'ids.json: the id "a" stands twice'),
        ("provenance.json", [], "provenance.json does not say what made the vectors: export it again"),
        ("provenance.json", {"made_by": 3}, "provenance.json does not say what made"),
    ],
)
def test_what_an_export_does_not_write_is_refused(
    suites: dict[str, Suite], tmp_path: Path, file: str, content: object, said: str
) -> None:
    np.save(tmp_path / "vectors.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "ids.json").write_text(json.dumps(["a", "b", "c"]))
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(DataError, match=said):
        read_stored(tmp_path, None, suites["cirr"])


def test_words_that_rows_do_not_have_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    genecis = open_suite("genecis", WRITERS["genecis"](tmp_path / "g"), pictures=False)
    assert words_of_its_own(genecis).startswith("the queries of focus_attribute, change_attribute, focus_object, ch")
    assert not words_of_its_own(open_suite("cirr", WRITERS["cirr"](tmp_path / "c"), pictures=False))
    (tmp_path / "g/val2017").mkdir()
    for number in range(60):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"g/val2017/{number:012}.jpg")
    given = ["rows", "genecis", "--data", str(tmp_path / "g"), "--option", "task=change_object"]
    assert main([*given, "--output", str(tmp_path / "rows")]) == 0
    said = capsys.readouterr()
    assert (
        "note: the queries of change_object are asked in words of the benchmark" in said.err
        and "wrote 40 rows" in said.out
    )


def test_options_that_say_nothing_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "files").mkdir()
    assert main(["score", str(folder), "--vectors", str(tmp_path / "files"), "--queries", "q"]) == 2
    assert "--queries belongs to a store, and" in capsys.readouterr().err
    assert main(["score", str(folder), "--ranking", "r.json", "--queries", "q"]) == 2
    assert "--queries is for --vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("fashioniq", {"captions": "both-orders"}, 'task dress: "0" is asked in several wordings'),
        (
            "fashioniq",
            {"prompts": "e5v"},
            "an option asks fashioniq .*prompts=e5v in words of its own, which no row has",
        ),
        ("genecis", {"task": "change_attribute"}, 'task change_attribute: "1:0,0,5,5" is a part of a picture'),
    ],
)
def test_what_no_row_means_is_refused(tmp_path: Path, name: str, options: dict[str, str], said: str) -> None:
    suite = open_suite(name, WRITERS[name](tmp_path / "data"), options=options, pictures=False)
    with pytest.raises(DataError, match=f"{said}.*: `mllm-embed-eval run"):
        write_rows(suite, tmp_path / "rows")
    assert not (tmp_path / "rows").exists()
