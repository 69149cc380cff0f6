"""Results beside results: real result folders of small made-up benchmarks, opened and scored by the real code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.benchmarks import open_suite
from eval.reports.compare import compare
from eval.reports.report import write_result
from eval.scoring.result import Result
from eval.scoring.score import Ties, Vectors, score
from eval.scoring.suite import Suite
from made_benchmarks import CATEGORIES, GENECIS, KNOWN, dump, fashioniq_files
from mllm_embed.errors import ConfigError, DataError


def run(folder: Path, suite: Suite, noise: float, seed: int = 0, ties: Ties = "gallery", **settings: Any) -> Result:
    """Score queries that are their target's vector and some noise, and leave a result folder."""
    rng = np.random.default_rng(seed)
    vectors = {}
    for task in suite.tasks:
        gallery = np.random.default_rng(99).standard_normal((len(task.gallery), 16)).astype(np.float32)
        wanted = gallery[[row[0] for row in task.views[0].targets]]
        queries = wanted + noise * rng.standard_normal(wanted.shape).astype(np.float32)
        vectors[task.name] = Vectors(gallery, {task.query_kind: queries.astype(np.float32)})
    result = score(suite, vectors, ties)
    write_result(result, suite, folder, {"model": None, "adapter": None, **settings})
    return result


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a Markdown document, a dict for each line, without the bold."""
    found = []
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE):
        head, _, *rows = [[cell.strip(" *") for cell in line[1:-1].split(" | ")] for line in block.strip().split("\n")]
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def everything(suite: Suite, result: Result) -> dict[str, float]:
    """Column -> percent, of all that was measured."""
    figures = {
        f"{task.name}/{metric}" if task.name else metric: figure.percent
        for task in suite.tasks
        for metric, figure in result.tasks[task.name].rows[task.query_kind].items()
    }
    return figures | {name: figure.percent for row in result.means.values() for name, figure in row.items()}


COLUMNS = {
    "fashioniq": [*[f"{c}/R@{k}" for c in CATEGORIES for k in (10, 50)], "mean R@10", "mean R@50", "mean"],
    "cirr": [*[f"R@{k}" for k in (1, 5, 10, 50)], *[f"Rsub@{k}" for k in (1, 2, 3)], "(R@5 + Rsub@1) / 2"],
    "circo": [f"mAP@{k}" for k in (5, 10, 25, 50)],
    "genecis": [*[f"{task}/R@1" for task in GENECIS], "mean R@1"],
}
HEADLINES = {"fashioniq": "mean", "cirr": "(R@5 + Rsub@1) / 2", "circo": "mAP@5", "genecis": "mean R@1"}


@pytest.mark.parametrize("name", KNOWN)
def test_a_line_a_run_with_the_columns_that_papers_print(name: str, suites: dict[str, Suite], tmp_path: Path) -> None:
    results = {label: run(tmp_path / label, suites[name], noise) for label, noise in (("a", 1.0), ("b", 2.0))}
    ours = tables(compare([tmp_path / "a", tmp_path / "b" / "result.json"], "markdown"))[0][:2]
    assert [line["method"] for line in ours] == ["a", "b"]
    about = {"method", "backbone", "setting", "split", "source", f"95 % of {HEADLINES[name]}"}
    assert [column for column in ours[0] if column not in about] == COLUMNS[name]
    for line in ours:
        figures = everything(suites[name], results[line["method"]])
        assert {column: line[column] for column in COLUMNS[name]} == {c: f"{figures[c]:.2f}" for c in COLUMNS[name]}
    headline = {**results["a"].means.get("composed", {}), **next(iter(results["a"].tasks.values())).rows["composed"]}
    figure = headline[HEADLINES[name]]
    assert ours[0][f"95 % of {HEADLINES[name]}"] == f"{figure.low:.2f} to {figure.high:.2f}"


@pytest.mark.parametrize("name", ["my shoes", "cirr"])
def test_a_folder_benchmark_shows_all_its_metrics_and_nothing_published(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    gallery = [{"id": str(number), "image": "a.png", "caption": f"thing {number}"} for number in range(8)]
    queries = [{"id": "q", "image": "a.png", "instruction": "other", "targets": ["3"]}]
    dump(tmp_path / "data", benchmark={"name": name, "gallery": gallery, "queries": queries})
    (tmp_path / "a.png").rename(tmp_path / "data" / "a.png")
    run(tmp_path / "mine", open_suite("folder", tmp_path / "data"), 0.5)
    text = compare([tmp_path / "mine"], "markdown")
    assert text.startswith(f"## {name}\n")
    ((line,),) = tables(text)
    names = ["R@1", "R@5", "R@10", "mAP", "MRR", "mAP@1", "mAP@5", "mAP@10"]
    assert list(line) == ["method", *names, *[f"captions/{name}" for name in names], "95 % of R@1"]
    assert "*" not in text, "a single line is not the best of anything"


def test_published_rows_of_the_same_split_follow_ours_with_their_source(
    suites: dict[str, Suite], tmp_path: Path
) -> None:
    run(tmp_path / "mine", suites["fashioniq"], 1.0)
    text = compare([tmp_path / "mine"], "markdown")
    ((mine, *others),) = tables(text)
    assert "7 published results are left out: Hit@1 among 1,000, by MMEB's rules" in text
    assert not any("Hit@" in column for column in mine) and "VLM2Vec" not in {line["method"] for line in others}
    assert (mine["source"], mine["split"]) == ("ours", "val")
    (row,) = [line for line in others if line["method"] == "E5-V"]
    assert (row["backbone"], row["dress/R@50"], row["mean R@10"]) == ("LLaVA-NeXT-Llama3 8.35B", "47.45", "31.80")
    assert (row["source"], row["split"], row["mean"]) == ("E5-V's table", "val", "–")
    assert {line["method"] for line in others} >= {"SPRC", "BGE-VL-MLLM", "LinCIR"}


@pytest.mark.parametrize(("name", "split"), [("cirr", "test1"), ("circo", "test")])
def test_published_rows_of_another_split_stand_in_a_table_of_their_own_that_says_so(
    name: str, split: str, suites: dict[str, Suite], tmp_path: Path
) -> None:
    run(tmp_path / "mine", suites[name], 1.0)
    text = compare([tmp_path / "mine"], "markdown")
    ours, theirs = tables(text)
    assert [line["method"] for line in ours] == ["mine"] and "source" not in ours[0]
    assert {line["split"] for line in theirs} == {split} and "mine" not in {line["method"] for line in theirs}
    between = text[: text.index("SEARLE")].rsplit("\n\n", 2)[1]
    assert f"{split}, not val" in between


def test_the_best_of_a_column_is_bold(suites: dict[str, Suite], tmp_path: Path) -> None:
    run(tmp_path / "good", suites["circo"], 0.1)
    run(tmp_path / "bad", suites["circo"], 3.0)
    text = compare([tmp_path / "good", tmp_path / "bad"], "markdown")
    good, bad = (next(line for line in text.split("\n") if line.startswith(f"| {name} ")) for name in ("good", "bad"))
    assert good.count("**") == 2 * len(COLUMNS["circo"]) and "**" not in bad
    best = {re.search(r"\| ([^|]*?) +\|", line)[1] for line in text.split("\n") if "**" in line}
    assert best == {"good", "BGE-VL-MLLM", "V-Retrver"}  # of ours, and of the published table


def test_another_gallery_has_a_table_of_its_own_without_published_rows(tmp_path: Path) -> None:
    data = fashioniq_files(tmp_path / "data")
    for gallery in ("original", "val"):
        run(tmp_path / gallery, open_suite("fashioniq", data, pictures=False, options={"gallery": gallery}), 1.0)
    first, second = compare([tmp_path / "original", tmp_path / "val"], "markdown").split("## ")[1:]
    assert [line["method"] for line in tables(first)[0]][:2] == ["original", "SEARLE"]
    assert [line["method"] for line in tables(second)[0]] == ["val"] and len(tables(second)) == 1
    assert "not to be compared with the first: gallery: val (there original)." in second
    assert "Published results are left out: they are for gallery=original." in second
    assert "Published results are left out" not in first and "Paired" not in first + second


def test_another_tie_rule_and_other_words_are_never_mixed(tmp_path: Path) -> None:
    for name, word in (("red", "is red"), ("blue", "is blue")):
        suite = open_suite("fashioniq", fashioniq_files(tmp_path / f"{name} data", word), pictures=False)
        run(tmp_path / name, suite, 1.0)
        run(tmp_path / f"{name} low", suite, 1.0, ties="pessimistic")
    names = ["red", "red low", "blue"]
    parts = compare([tmp_path / name for name in names], "markdown").split("## ")[1:]
    assert [tables(part)[0][0]["method"] for part in parts] == names
    assert "ties: among equal scores the targets come last (there equal scores are ranked" in parts[1]
    assert "the fingerprint there is " in parts[2] and "words" in parts[2]


def test_pictures_of_other_sizes_are_told(suites: dict[str, Suite], tmp_path: Path) -> None:
    for name, pictures in (("a", "0"), ("b", "1"), ("c", "0"), ("given", None)):
        run(tmp_path / name, suites["cirr"], 1.0)
        replaced(
            tmp_path / name / "result.json",
            lambda content, seen=pictures: spoil(content, "protocol", "pictures", value=seen),
        )
    told = "The picture files of b are of other sizes than those of a: of the same names, but perhaps not the same"
    assert told in compare([tmp_path / name for name in ("a", "b", "c", "given")], "markdown")
    assert "picture files" not in compare([tmp_path / name for name in ("a", "c", "given")], "markdown")


def test_several_benchmarks_each_have_a_section(suites: dict[str, Suite], tmp_path: Path) -> None:
    for name in ("cirr", "circo"):
        run(tmp_path / f"my {name}", suites[name], 1.0)
    folders = [tmp_path / "my cirr", tmp_path / "my circo"]
    assert re.findall("^## (.*)", compare(folders, "markdown"), re.MULTILINE) == ["cirr val", "circo val text=relative"]


@pytest.mark.parametrize("name", KNOWN)
def test_every_column_has_its_difference_interval_and_p(name: str, suites: dict[str, Suite], tmp_path: Path) -> None:
    figures = {
        label: everything(suites[name], run(tmp_path / label, suites[name], noise, seed))
        for label, noise, seed in (("a", 1.5, 0), ("b", 1.2, 1), ("c", 0.5, 2))
    }
    text = compare([tmp_path / label for label in "abc"], "markdown")
    note = f"corrected for the {3 * len(COLUMNS[name])} tests of this table (Holm, 1979)"
    assert text.count(note) == 1
    tests = tables(text)[-1]
    pairs = [("b", "a"), ("c", "a"), ("c", "b")]
    assert [(line["run"], line["minus"]) for line in tests] == [p for p in pairs for _ in COLUMNS[name]]
    assert [line["column"] for line in tests] == 3 * COLUMNS[name]
    for line in tests:
        points = figures[line["run"]][line["column"]] - figures[line["minus"]][line["column"]]
        assert float(line["difference"]) == pytest.approx(points, abs=0.0051)
        low, high = map(float, line["95 %"].split(" to "))
        assert low <= points + 0.01 and points - 0.01 <= high
        assert 1e-4 <= float(line["p"]) <= 1
        if not low <= 0 <= high and abs(points) > abs(high - low):
            assert float(line["p"]) < 0.05
    smallest = min(tests, key=lambda line: float(line["p"]))
    assert float(smallest["p, Holm"]) == pytest.approx(min(1, len(tests) * float(smallest["p"])), abs=0.003)
    assert all(float(line["p"]) <= float(line["p, Holm"]) <= 1 for line in tests)
    assert compare([tmp_path / label for label in "abc"], "markdown").count(note) == 1


def test_what_is_one_number_is_named_and_tested_once(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    gallery = [{"id": str(number), "image": "a.png"} for number in range(40)]
    queries = [
        {"id": f"q{number}", "image": "a.png", "instruction": f"no. {number}", "targets": [str(number)]}
        for number in range(40)
    ]
    queries[0]["targets"] = ["0", "1"]
    for several in (False, True):  # with one target a query, average precision is the reciprocal rank
        folder = tmp_path / str(several)
        dump(folder / "data", benchmark={"name": "mine", "gallery": gallery, "queries": queries[not several :]})
        (folder / "data/a.png").write_bytes((tmp_path / "a.png").read_bytes())
        suite = open_suite("folder", folder / "data")
        for label, noise in (("a", 2.0), ("b", 2.5)):
            run(folder / label, suite, noise)
        text = compare([folder / "a", folder / "b"], "markdown")
        ours, tests = tables(text)
        names = ["R@1 = mAP@1", "R@5", "R@10", *(["mAP", "MRR"] if several else ["mAP = MRR"]), "mAP@5", "mAP@10"]
        assert [line["column"] for line in tests] == names
        assert list(ours[0]) == ["method", *names, "95 % of R@1 = mAP@1"]
        assert f"corrected for the {len(names)} tests of this table" in text


def test_p_of_the_mean_over_categories_equals_a_slow_loop_within_each(suites: dict[str, Suite], tmp_path: Path) -> None:
    for label, noise, seed in (("a", 1.5, 0), ("b", 1.35, 1)):
        run(tmp_path / label, suites["fashioniq"], noise, seed)
    kept = {label: json.loads((tmp_path / label / "per_query.json").read_text())["tasks"] for label in "ab"}
    rng = np.random.default_rng(7)
    more = []
    for task in CATEGORIES:
        values = {label: kept[label][task]["metrics"] for label in "ab"}
        rows = zip(values["b"]["R@10"], values["b"]["R@50"], values["a"]["R@10"], values["a"]["R@50"], strict=True)
        more.append([(w + x) / 2 - (y + z) / 2 for w, x, y, z in rows])

    def total(signs: list[list[int]]) -> float:
        return sum(sum(s * d for s, d in zip(*pair, strict=True)) / len(pair[1]) for pair in zip(signs, more)) / 3  # noqa: B905

    seen = total([[1] * len(part) for part in more])
    flips = [total([(2 * rng.integers(0, 2, len(part)) - 1).tolist() for part in more]) for _ in range(4000)]
    slow = (1 + sum(abs(flip) >= abs(seen) - 1e-12 for flip in flips)) / 4001
    (line,) = [
        line for line in tables(compare([tmp_path / "a", tmp_path / "b"], "markdown"))[-1] if line["column"] == "mean"
    ]
    assert float(line["difference"]) == pytest.approx(100 * seen, abs=0.0051)
    assert 0.02 < slow < 0.98, "the case says nothing"
    assert float(line["p"]) == pytest.approx(slow, abs=0.035)


def test_without_values_per_query_a_run_is_shown_but_not_tested(suites: dict[str, Suite], tmp_path: Path) -> None:
    for number, label in enumerate("abc"):
        run(tmp_path / label, suites["cirr"], 1.0, number)
    (tmp_path / "b" / "per_query.json").unlink()
    text = compare([tmp_path / label for label in "abc"], "markdown")
    ours, _, tests = tables(text)
    assert [line["method"] for line in ours] == ["a", "b", "c"]
    assert {(line["run"], line["minus"]) for line in tests} == {("c", "a")}
    assert "No paired test of b: its folder has no per_query.json." in text


def test_what_was_asked_otherwise_is_told(suites: dict[str, Suite], tmp_path: Path) -> None:
    own = {"name": "gme", "image": "{image}", "composed": "{image}{instruction}"}
    said: dict[str, dict[str, Any]] = {
        "a": {"prompts": own, "words": "the model's own", "query task": "Find it."},
        "b": {"prompts": own, "words": "the model's own", "query task": "Find it."},
        "c": {"prompts": own, "words": "the model's own", "query task": "Retrieve it."},
        "d": {"prompts": {**own, "composed": "{image} {instruction}"}, "words": "the model's own"},
        "e": {"prompts": {"name": "e5-v", "image": "other"}, "words": "the benchmark's own", "query task": "Find it."},
        "f": {"prompts": "unknown: the vectors were given"},
    }
    for label, asked in said.items():
        run(tmp_path / label, suites["cirr"], 1.0)
        content = json.loads((tmp_path / label / "result.json").read_text())
        content["protocol"] |= asked
        (tmp_path / label / "result.json").write_text(json.dumps(content))
    text = compare([tmp_path / label for label in said], "markdown")
    assert [line for line in text.split("\n") if "was asked otherwise" in line] == [
        'c was asked otherwise than a: query task: "Find it.", now "Retrieve it.".',
        'd was asked otherwise than a: prompts.composed: "{image}{instruction}", now "{image} {instruction}"; '
        'query task: "Find it.", now null.',
        'e was asked otherwise than a: prompts: "gme", now "e5-v"; '
        'words: "the model\'s own", now "the benchmark\'s own".',
    ]


def test_runs_are_called_by_folder_or_model_or_path(suites: dict[str, Suite], tmp_path: Path) -> None:
    for place, adapter in (("x/same", "one"), ("y/same", "two"), ("z/same", None)):
        run(tmp_path / place, suites["cirr"], 1.0, model="base", adapter=adapter)
    run(tmp_path / "w/same", suites["cirr"], 1.0)
    run(tmp_path / "v", suites["cirr"], 1.0)

    def names(*places: str) -> list[str]:
        return [line["method"] for line in tables(compare([tmp_path / place for place in places], "markdown"))[0]]

    assert names("x/same", "v") == ["same", "v"]
    assert names("x/same", "y/same", "z/same") == ["base + one", "base + two", "base"]
    assert names("x/same", "w/same") == [str(tmp_path / "x/same"), str(tmp_path / "w/same")]


def test_markdown_is_aligned_and_a_bar_in_a_name_breaks_nothing(suites: dict[str, Suite], tmp_path: Path) -> None:
    run(tmp_path / "a|b*", suites["genecis"], 1.0)
    lines = [line for line in compare([tmp_path / "a|b*"], "markdown").split("\n") if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert r"| a\|b\* " in lines[2]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_latex_escapes_what_is_special_and_is_a_booktabs_table(suites: dict[str, Suite], tmp_path: Path) -> None:
    name = r"[50%_a&b#c$d{e}~^\<|]"
    run(tmp_path / name, suites["genecis"], 1.0)
    run(tmp_path / "other", suites["genecis"], 0.5, 1)
    text = compare([tmp_path / name, tmp_path / "other"], "latex")
    assert text.startswith("\\subsection*{genecis task=all}\n")
    escaped = r"{[}50\%\_a\&b\#c\$d\{e\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textless{}\textbar{}{]}"
    assert f"\n{escaped} & -- & -- & " in text
    assert r"95 \% of mean R@1" in text and r"focus\_object/R@1" in text and r"\textbf{" in text
    for table in re.findall(
        r"\\begin{tabular}{([lr]+)}\n\\toprule\n(.*?)\n\\bottomrule\n\\end{tabular}", text, re.DOTALL
    ):
        columns, (head, rule, *rows) = len(table[0]), table[1].split("\n")
        assert rule == r"\midrule" and rows
        for row in (head, *rows):
            assert row.endswith(r" \\") and len(re.findall(r"(?<!\\)&", row)) == columns - 1
    assert text.count(r"\begin{tabular}") == 2
    bare = re.sub(r"\\[&%$#_{}]|\\[a-z]+\*?| \\\\$", "", text, flags=re.MULTILINE)
    assert not set(bare) & set("%$#_~^\\<>|–")


def replaced(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_other_queries_under_the_same_fingerprint_are_refused(suites: dict[str, Suite], tmp_path: Path) -> None:
    for label in "ab":
        run(tmp_path / label, suites["fashioniq"], 1.0)

    def renamed(content: Any) -> Any:
        content["tasks"]["shirt"]["ids"][3] = "another"
        return content

    replaced(tmp_path / "b" / "per_query.json", renamed)
    with pytest.raises(
        DataError, match=r"task shirt: the query ids in .*a/per_query.json and .*b/per_query.json differ"
    ):
        compare([tmp_path / "a", tmp_path / "b"], "markdown")


@pytest.mark.parametrize("change", [lambda values: values[:-1], lambda values: [1 - v for v in values], lambda _: "no"])
def test_values_of_another_run_are_refused(
    change: Callable[[list[float]], Any], suites: dict[str, Suite], tmp_path: Path
) -> None:
    run(tmp_path / "a", suites["cirr"], 1.0)

    def spoilt(content: Any) -> Any:
        content["tasks"][""]["metrics"]["R@5"] = change(content["tasks"][""]["metrics"]["R@5"])
        return content

    replaced(tmp_path / "a" / "per_query.json", spoilt)
    with pytest.raises(DataError, match=r"per_query.json .*run `mllm-embed-eval run` or `score` again"):
        compare([tmp_path / "a"], "markdown")


def spoil(content: dict[str, Any], *keys: str, value: Any = None) -> dict[str, Any]:
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    return content


@pytest.mark.parametrize(
    "change",
    [
        lambda content: [],
        lambda content: {"benchmark": "scenes", "fingerprint": "0", "rows": {}},
        lambda content: spoil(content, "tasks", value={}),
        lambda content: spoil(content, "tasks", "", "rows", value={}),
        lambda content: spoil(content, "protocol", value=None),
        lambda content: spoil(content, "means", value=[]),
        lambda content: spoil(content, "tasks", "", "rows", "composed", "R@5", "percent", value="many"),
        lambda content: spoil(content, "tasks", "", "rows", "composed", "R@5", "low", value=float("nan")),
        lambda content: spoil(content, "tasks", "", "rows", "composed", "R@5", "percent", value=False),
        lambda content: spoil(content, "tasks", "", "queries", value=True),
        lambda content: spoil(content, "benchmark", "name", value=False),
        lambda content: spoil(content, "benchmark", "printed", value={}),
        lambda content: spoil(content, "benchmark", "printed", value=["R@1", "R@7"]),
        lambda content: spoil(content, "means of", "(R@5 + Rsub@1) / 2", value=["R@5", "Rsub@7"]),
        lambda content: spoil(content, "means of", "(R@5 + Rsub@1) / 2", value=["(R@5 + Rsub@1) / 2"]),
    ],
)
def test_a_result_of_another_format_is_one_clear_sentence(
    change: Callable[[Any], Any], suites: dict[str, Suite], tmp_path: Path
) -> None:
    run(tmp_path / "a", suites["cirr"], 1.0)
    replaced(tmp_path / "a" / "result.json", change)
    with pytest.raises(DataError, match=r"a/result.json (is no result of this version|holds no figures).* again$"):
        compare([tmp_path / "a"], "markdown")


def test_what_is_missing_broken_or_given_twice_is_named(suites: dict[str, Suite], tmp_path: Path) -> None:
    run(tmp_path / "a", suites["cirr"], 1.0)
    (tmp_path / "empty").mkdir()
    dump(tmp_path / "torn", result={})
    (tmp_path / "torn" / "result.json").write_text('{"model": ')
    for wrong, message in (
        ("nowhere", "nowhere is missing: give a folder"),
        ("empty", "empty has no result.json: give a folder"),
        ("torn", r"torn/result.json is not JSON \("),
        ("a/per_query.json", "per_query.json is no result of this version"),
        ("a/result.json", "a is given twice"),
    ):
        with pytest.raises(DataError, match=message):
            compare([tmp_path / "a", tmp_path / wrong], "markdown")
    with pytest.raises(ConfigError, match="markdown, latex, html, not 'word'"):
        compare([tmp_path / "a"], "word")
