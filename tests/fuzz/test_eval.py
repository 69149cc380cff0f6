"""Files of the evaluator: annotations, vectors, rankings, submissions, results. What is wrong with one is told."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from eval.benchmarks import open_suite
from eval.reports.compare import compare
from eval.reports.report import write_result
from eval.reports.submission import check_submission, read_ranking, read_submission, write_submission
from eval.scoring.rankings import score_rankings
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite
from eval.scoring.vectors import read_vectors, write_vectors
from eval.studies.llm_texts import read_captions
from fuzz.tools.damages import DAMAGES, damaged
from fuzz.tools.harness import RIGHT, TOLD, Case, Told, attempt, expect, plain, sift
from fuzz.tools.json_doors import JsonDoor, door_cases, sift_doors
from made_benchmarks import CATEGORIES, GENECIS, WRITERS, cirr_files, dump
from mllm_embed.saving.card_results import eval_results, read_card_result, results_section
from tiny import make_data

ANNOTATIONS = {
    "fashioniq": tuple(
        f"{kind}.json" for name in CATEGORIES for kind in (f"captions/cap.{name}.val", f"image_splits/split.{name}.val")
    ),
    "cirr": ("captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"),
    "circo": ("val.json", "image_info_unlabeled2017.json"),
    "genecis": tuple(f"{name}.json" for name in GENECIS),
}


def _suite_says(name: str, folder: Path) -> str:
    return says(open_suite(name, folder, pictures=False))


def says(suite: Suite) -> str:
    """Return all that a suite asks and wants, as text."""
    tasks = [
        {
            "gallery": list(zip(task.gallery_ids, map(_name, task.gallery), strict=True)),
            "queries": list(zip(task.query_ids, [list(map(_name, items)) for items in task.queries], strict=True)),
            "views": [
                [[sorted(rows) for rows in part] for part in (view.targets, view.exclude or (), view.candidates or ())]
                for view in task.views
            ],
            "groups": task.groups,
            "paraphrases": task.paraphrases,
            "negatives": task.negatives,
        }
        for task in suite.tasks
    ]
    return plain([suite.title, tasks])


def _name(item: object) -> str:
    # folders differ, names do not
    images = [Path(str(image)).name for image in item.images]  # type: ignore[attr-defined]
    return plain([images, getattr(item, "text", None), getattr(item, "instruction", None)])


def _karpathy(folder: Path) -> None:
    rows = [
        {
            "filename": f"{at}.jpg",
            "filepath": "val2014",
            "split": "test" if at % 2 else "train",
            "sentences": [{"raw": f"sentence {at} {number}"} for number in range(5)],
        }
        for at in range(20)
    ]
    dump(folder, dataset_flickr30k={"images": rows, "dataset": "flickr30k"})


def _write(name: str, folder: Path) -> None:
    WRITERS[name](folder)


SUITES = [
    *(JsonDoor(name, partial(_write, name), files, partial(_suite_says, name)) for name, files in ANNOTATIONS.items()),
    JsonDoor(
        "flickr30k",
        _karpathy,
        ("dataset_flickr30k.json",),
        partial(_suite_says, "flickr30k"),
        frozenset({"filepath"}),
    ),
    JsonDoor(
        "folder",
        make_data,
        ("benchmark.json",),
        partial(_suite_says, "folder"),
        frozenset({"kind", "exclude", "caption"}),
    ),
]


def _vectors(suite: Suite) -> dict[str, Vectors]:
    rng = np.random.default_rng(0)
    return {
        task.name: Vectors(_rows(rng, len(task.gallery)), {task.query_kind: _rows(rng, len(task.queries))})
        for task in suite.tasks
    }


def _rows(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal((count, 16)).astype(np.float32)


def _ranking(folder: Path) -> None:
    suite = open_suite("circo", WRITERS["circo"](folder), pictures=False)
    (task,) = suite.tasks
    rng = np.random.default_rng(0)
    lists = {name: [int(task.gallery_ids[at]) for at in rng.permutation(150)[:60]] for name in task.query_ids}
    (folder / "ranking.json").write_text(json.dumps(lists))


def _ranking_says(folder: Path) -> str:
    suite = open_suite("circo", folder, pictures=False)
    result = score_rankings(suite, read_ranking(folder / "ranking.json"))
    return plain({name: result.percent(name) for name in result.tasks[""].rows["composed"]})


def _submission(folder: Path) -> None:
    cirr_files(folder)
    for kind in ("captions/cap", "image_splits/split"):
        (folder / f"{kind}.rc2.val.json").rename(folder / f"{kind}.rc2.test1.json")
    suite = open_suite("cirr", folder, split="test1", pictures=False)
    write_submission(suite, _vectors(suite), folder)


def _submission_says(folder: Path) -> str:
    suite = open_suite("cirr", folder, split="test1", pictures=False)
    contents = read_submission([folder / "recall.json", folder / "recall_subset.json"])
    check_submission(suite, contents)
    return plain({name: {key: list(map(str, value)) for key, value in part.items()} for name, part in contents.items()})


def _results(folder: Path) -> None:
    suite = open_suite("cirr", WRITERS["cirr"](folder / "data"), pictures=False)
    settings = {"model": "m", "adapter": None}
    for name, vectors in (("a", _vectors(suite)), ("b", {"": Vectors(*_other(suite))})):
        write_result(score(suite, vectors), suite, folder / name, settings)


def _other(suite: Suite) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    own = _vectors(suite)[""]
    return own.gallery, {name: -rows for name, rows in own.rows.items()}


def _results_say(folder: Path) -> str:
    return compare([folder / "a", folder / "b"], "markdown").replace(str(folder), "")


def _card_says(folder: Path) -> str:
    result = read_card_result(folder / "a")
    return plain([results_section("", [result]), [str(entry) for entry in eval_results(result)]])


def _captions(folder: Path) -> None:
    suite = open_suite("folder", make_data(folder))
    names = suite.tasks[0].gallery_ids
    content = {name: f"caption {name}" if at % 2 else ["one", f"two {name}"] for at, name in enumerate(names)}
    (folder / "captions.json").write_text(json.dumps(content))


def _captions_say(folder: Path) -> str:
    return plain(read_captions(folder / "captions.json", open_suite("folder", folder)))


FILES = [
    JsonDoor("ranking", _ranking, ("ranking.json",), _ranking_says),
    JsonDoor("submission", _submission, ("recall.json", "recall_subset.json"), _submission_says),
    JsonDoor("results", _results, ("a/result.json", "a/per_query.json"), _results_say),
    JsonDoor("results on a card", _results, ("a/result.json",), _card_says),
    JsonDoor(
        "captions", _captions, ("captions.json",), _captions_say, words=("'no'", "'1'", "the letter nul", "a long text")
    ),
]
SUITE_CASES = door_cases(SUITES)
FILE_CASES = door_cases(FILES, 1, 3)


@pytest.mark.slow
def test_annotations(tmp_path: Path) -> None:
    sift_doors("annotations of benchmarks", SUITE_CASES, tmp_path)


@pytest.mark.slow
def test_files_of_the_evaluator(tmp_path: Path) -> None:
    sift_doors("files of the evaluator", FILE_CASES, tmp_path)


SPOILT = {
    "a row of zeros": lambda rows: _with(rows, np.zeros(16)),
    "a row of nan": lambda rows: _with(rows, np.full(16, np.nan)),
    "an infinite number": lambda rows: _with(rows, np.full(16, np.inf)),
    "too large for float32": lambda rows: _with(rows.astype(np.float64), np.full(16, 1e200)),
    "all zeros": np.zeros_like,
    "whole numbers": lambda rows: (rows * 100).astype(np.int64),
    "objects": lambda rows: rows.astype(object),
    "complex": lambda rows: rows.astype(np.complex64),
    "words": lambda rows: rows.astype(str),
    "one row less": lambda rows: rows[:-1],
    "one row more": lambda rows: np.concatenate([rows, rows[:1]]),
    "turned": lambda rows: rows.T,
    "flat": lambda rows: rows.ravel(),
    "deep": lambda rows: rows[None],
    "no width": lambda rows: rows[:, :0],
    "another width": lambda rows: rows[:, :8],
    "no rows": lambda rows: rows[:0],
    "so small that its length is 0": lambda rows: _with(rows.astype(np.float64), np.full(16, 1e-300)),
}
VECTOR_CASES = [
    Case(f"{file}, {damage} ({seed})", (file, damage, seed))
    for file in ("gallery.npy", "queries.npy", "gallery_ids.json", "query_ids.json")
    for damage in DAMAGES
    for seed in range(2)
]
VECTOR_CASES += [Case(f"{file}, {name}", (file, name, 0)) for file in ("gallery.npy", "queries.npy") for name in SPOILT]


def _with(rows: np.ndarray, row: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[3] = row
    return rows


@pytest.mark.slow
def test_given_vectors(tmp_path: Path) -> None:
    suite = open_suite("circo", WRITERS["circo"](tmp_path / "data"), pictures=False)
    write_vectors(tmp_path / "whole", suite, _vectors(suite))
    spoilt = tmp_path / "spoilt"

    def judge(case: Case) -> str:
        file, damage, seed = case.what
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", spoilt)
        if damage in SPOILT:
            np.save(spoilt / file, SPOILT[damage](np.load(spoilt / file)), allow_pickle=True)
        else:
            (spoilt / file).write_bytes(damaged((spoilt / file).read_bytes(), damage, seed))
        found = attempt(lambda: read_vectors(spoilt, suite))
        if isinstance(found, Told):
            return TOLD
        expect(damage not in SPOILT, "scored")
        for name, matrix in (("gallery", found[""].gallery), ("query", found[""].rows["composed"])):
            _check_rows(spoilt, name, matrix, suite)
        return RIGHT

    sift("given vectors", VECTOR_CASES, judge)


def _check_rows(folder: Path, name: str, matrix: np.ndarray, suite: Suite) -> None:
    """Compare with what numpy reads: no file of vectors has a checksum."""
    rows = np.load(folder / {"gallery": "gallery.npy", "query": "queries.npy"}[name], allow_pickle=False)
    ids = json.loads((folder / f"{name}_ids.json").read_text())
    wanted = suite.tasks[0].gallery_ids if name == "gallery" else suite.tasks[0].query_ids
    expect(len(ids) == len(rows) == len(wanted), "another number of rows")
    place = {own: at for at, own in enumerate(ids)}
    right = np.stack([rows[place[own]] for own in wanted]).astype(np.float32)
    expect(bool((matrix == right).all()), "other vectors")
    expect(bool((np.linalg.norm(matrix.astype(np.float64), axis=1) > 0).all()), "a vector of zeros")


CASES = [*SUITE_CASES, *FILE_CASES, *VECTOR_CASES]
