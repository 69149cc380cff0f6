"""The audit of several results together, its lists, and the card that tells the gap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks import open_suite
from eval.cli import main
from eval.reports.audit import PooledTask, pool, write_lists
from eval.reports.query_lists import read_query_list
from eval.reports.seeds import read_runs
from eval.scoring.metrics import MRR, negative_recall, recall, spread_of_precision
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite, Task, View
from eval.scoring.vectors import read_vectors, write_vectors
from made_benchmarks import cirr_files, fashioniq_files
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.saving.card_results import read_card_result, results_section
from mllm_embed.types import Document, Query

HALVES = ("image only", "text only")


def test_a_half_finds_what_it_finds_for_any_of_the_results(
    suites: dict[str, Suite], scored: Any, tmp_path: Path
) -> None:
    results = [scored(tmp_path / name, suites["fashioniq"], seed) for seed, name in enumerate("abc")]
    for metric in ("R@10", "R@50"):
        for task, own in pool(read_runs([tmp_path / name for name in "abc"]), metric).items():
            values = [result.tasks[task].row_values for result in results]
            for at in range(len(own.ids)):
                image, text = (any(one[half][metric][at] for one in values) for half in HALVES)
                whole = any(one["composed"][metric][at] for one in values)
                expected = {
                    "image only": image and not text,
                    "text only": text and not image,
                    "both": image and text,
                    "neither": not image and not text,
                    "composition required": whole and not image and not text,
                    "unresolved": not whole and not image and not text,
                }
                assert {name: bool(members[at]) for name, members in own.found.items()} == expected
    assert pool(read_runs([tmp_path / "a"]))["dress"].metric == "R@10"


def test_the_command_writes_lists_that_score_takes(
    scored: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = open_suite("fashioniq", fashioniq_files(tmp_path / "data"), pictures=False)
    result = scored(tmp_path / "a", suite)
    lists = tmp_path / "lists"
    assert main(["audit", str(tmp_path / "a"), "--lists", str(lists)]) == 0
    said = capsys.readouterr()
    needing = {task: own.composition["R@10"].labels == "neither" for task, own in result.tasks.items()}
    total = sum(int(own.sum()) for own in needing.values())
    assert f"neither.txt ({total})" in said.err and "40 queries, by what the result finds at R@10" in said.out
    assert read_query_list(lists / "neither.txt", suite) == {
        task: np.flatnonzero(own).tolist() for task, own in needing.items()
    }
    split = [
        len(read_query_list(lists / f"{name}.txt", suite)["toptee"]) for name in ("composition-required", "unresolved")
    ]
    assert sum(split) == needing["toptee"].sum()


def test_no_list_of_an_earlier_audit_is_left_for_this_one(tmp_path: Path) -> None:
    for found in ({"both": [True, False], "neither": [False, True]}, {"both": [True, True], "neither": [False] * 2}):
        sets = {name: np.array(members) for name, members in found.items()}
        write_lists({"": PooledTask("R@1", ["a", "b"], sets, np.array([True, True]))}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["both.txt"]
    assert (tmp_path / "both.txt").read_text() == "a\nb\n"


def test_what_cannot_be_audited_together_is_named(suites: dict[str, Suite], scored: Any, tmp_path: Path) -> None:
    scored(tmp_path / "a", suites["cirr"])
    scored(tmp_path / "circo", suites["circo"])
    scored(tmp_path / "bare", suites["cirr"], rows=("composed",))
    for wrong, message in (
        ("circo", "circo is of another benchmark or protocol than .*a: audit them apart"),
        ("bare", "bare does not say what the halves of its queries find"),
    ):
        with pytest.raises(DataError, match=message):
            pool(read_runs([tmp_path / "a", tmp_path / wrong]))
    with pytest.raises(ConfigError, match="--at: 'R@7' is no metric here; there are R@1, R@5, R@10"):
        pool(read_runs([tmp_path / "a"]), "R@7")


def test_what_does_not_tell_whether_a_query_is_found_is_no_metric_of_an_audit(scored: Any, tmp_path: Path) -> None:
    names = [f"g{at}" for at in range(40)]
    targets = [[at] for at in range(20)]
    metrics = (*recall((1, 10)), MRR, spread_of_precision(10, [0, 1] * 10))
    views = View(metrics, targets), View(negative_recall((10,), [1] * 20), [[at + 20] for at in range(20)])
    gallery = [Document(image=f"{name}.jpg") for name in names]
    queries = [(Query(f"r{at}.jpg", "in blue"),) for at in range(20)]
    task = Task("", names, gallery, names[:20], queries, views, found_at=("R@1",))
    scored(tmp_path / "a", Suite("made", "", {}, (task,)))
    for metric in ("MRR", "P@10 spread", "NegRecall@10"):
        message = f"--at: '{metric}' says nothing of what is found among the first K; there are R@1, R@10$"
        with pytest.raises(ConfigError, match=message):
            pool(read_runs([tmp_path / "a"]), metric)
    assert pool(read_runs([tmp_path / "a"]), "R@10")[""].metric == "R@10"


def test_saved_halves_score_as_they_did(scored: Any, tmp_path: Path) -> None:
    data = cirr_files(tmp_path / "data")
    suite = open_suite("cirr", data, pictures=False)
    (task,) = suite.tasks
    rng = np.random.default_rng(0)
    made = {row: rng.standard_normal((100, 8)).astype(np.float32) for row in ("composed", *HALVES)}
    vectors = Vectors(rng.standard_normal((len(task.gallery), 8)).astype(np.float32), made)
    write_vectors(tmp_path / "vectors", suite, {"": vectors})
    out = tmp_path / "out"
    assert (
        main(["score", "cirr", "--data", str(data), "--vectors", str(tmp_path / "vectors"), "--output", str(out)]) == 0
    )
    saved = json.loads((out / "result.json").read_text())["tasks"][""]
    whole = score(suite, {"": vectors}).tasks[""]
    assert list(saved["rows"]) == ["composed", "image only", "text only", "sum"]
    assert saved["composition"] == {metric: own.to_dict() for metric, own in whole.composition.items()}
    sums = read_vectors(tmp_path / "vectors", suite)[""].rows["sum"]
    assert np.allclose(np.linalg.norm(sums, axis=1), 1)
    np.save(tmp_path / "vectors/text_only.npy", made["text only"][:, :4])
    with pytest.raises(DataError, match="8 dimensions and text_only.npy 4; both must come from one model"):
        read_vectors(tmp_path / "vectors", suite)
    np.save(tmp_path / "vectors/text_only.npy", made["text only"][:7])
    with pytest.raises(DataError, match="text_only.npy has 7 rows"):
        read_vectors(tmp_path / "vectors", suite)
    (tmp_path / "vectors/text_only.npy").unlink()
    assert list(read_vectors(tmp_path / "vectors", suite)[""].rows) == ["composed", "image only"]


def test_a_card_tells_the_gap_and_refuses_one_that_is_none(
    suites: dict[str, Suite], scored: Any, tmp_path: Path
) -> None:
    result = scored(tmp_path, suites["fashioniq"])
    text = results_section("", [read_card_result(tmp_path)])
    for task in result.tasks.values():
        audit = task.composition["R@10"]
        gap, needing = audit.gap.points, audit.labelled["neither"]
        assert (
            f"Composition gap at R@10: {gap.percent:+.2f} points ({gap.low:.1f} to {gap.high:.1f}) over image only, "
            f"{needing.composed.percent:+.2f} among those that neither finds. Queries found by image only "
            f"{audit.labelled['image only'].queries} (" in text
        )
    assert f"Composition gap at mean R@10: {result.gaps['mean R@10'].points.percent:+.2f} points" in text
    whole = json.loads((tmp_path / "result.json").read_text())
    for change in (
        lambda part: part.update({"R@7": part["R@10"]}),
        lambda part: part["R@10"].pop("gap"),
        lambda part: part["R@10"]["gap"].update(percent="12"),
        lambda part: part["R@10"]["found by"].update({"neither": {"queries": -1, "percent": 1, "low": 0, "high": 2}}),
    ):
        spoilt = json.loads(json.dumps(whole))
        change(spoilt["tasks"]["shirt"]["composition"])
        (tmp_path / "result.json").write_text(json.dumps(spoilt))
        with pytest.raises(DataError, match=r"result.json is no result of this version \("):
            read_card_result(tmp_path)
