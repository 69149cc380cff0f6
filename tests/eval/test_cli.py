"""`mllm-embed-eval` with a real tiny model on real files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.benchmarks import open_suite
from eval.cli import main
from eval.reports.report import settings_of, write_result
from eval.scoring.evaluate import evaluate
from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError
from mllm_embed.saving.card_results import read_card_result, results_section


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    folder = tmp_path / "bench"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        picture = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        picture.save(folder / f"{number}.png")
    gallery = [{"id": f"g{at}", "image": f"{at}.png", "caption": f"number {at}"} for at in range(6)]
    queries = [
        {"id": f"q{at}", "image": f"{at}.png", "instruction": "next", "targets": [f"g{at + 1}"], "exclude": [f"g{at}"]}
        for at in range(5)
    ]
    (folder / "benchmark.json").write_text(json.dumps({"name": "my bench", "gallery": gallery, "queries": queries}))
    return folder


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_a_run_prints_the_table_and_writes_result_and_sheet(
    tiny_llava: Path,
    benchmark: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(benchmark), "--model", str(tiny_llava)]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / f"runs/eval/my_bench-{tiny_llava.parent.name}-tiny"
    assert sorted(file.name for file in folder.iterdir()) == [
        "contact_sheet.png",
        "per_query.json",
        "report.html",
        "result.json",
    ]
    content = json.loads((folder / "result.json").read_text())
    assert (content["model"], content["adapter"], content["dtype"]) == (str(tiny_llava), None, "float32")
    rows = content["tasks"][""]["rows"]
    for name in ("composed", "image only", "text only", "sum"):
        assert rows[name]["R@10"]["hits"] == rows[name]["R@10"]["queries"] == 5
        line = next(line for line in out.splitlines() if line.startswith(name))
        assert line.removeprefix(name).split()[0] == f"{rows[name]['R@1']['percent']:.2f}"
    assert content["tasks"]["captions"]["queries"] == 6
    assert content["versions"]["torch"]
    with Image.open(folder / "contact_sheet.png") as image:
        assert image.height > 5 * 128
    assert main(["run", str(benchmark), "--model", str(tiny_llava), "--edit-strength", "0.8"]) == 0
    assert (folder.parent / f"{folder.name}-edit-0.8" / "result.json").is_file()  # beside it, not in its place


def test_the_command_and_the_function_are_one_pipeline(tiny_llava: Path, benchmark: Path, tmp_path: Path) -> None:
    """Both write the same settings and protocol, an edit's strength and the tie rule among them."""
    arguments = ["run", str(benchmark), "--model", str(tiny_llava), "--output", str(tmp_path / "command")]
    assert main([*arguments, "--edit-strength", "0.8", "--ties", "pessimistic", "--sheet", "0"]) == 0
    suite = open_suite("folder", benchmark)
    embedder = MLLMEmbedder.from_pretrained(str(tiny_llava))
    result = evaluate(embedder, suite, edit_strength=0.8, ties="pessimistic")
    write_result(result, suite, tmp_path / "function", settings_of(embedder, str(tiny_llava), None))
    one, other = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("command", "function"))
    for content in (one, other):
        assert content["protocol"]["edit strength"] == 0.8 and "come last" in content["protocol"]["ties"]
        del content["spent"]
    assert one == other and one["dtype"] == "float32"
    queries = [(tmp_path / name / "per_query.json").read_text() for name in ("command", "function")]
    assert queries[0] == queries[1]


def test_what_is_not_read_of_an_input_stands_in_the_result_and_on_the_card(
    tiny_llava: Path, benchmark: Path, tmp_path: Path
) -> None:
    plain, small = (MLLMEmbedder.from_pretrained(str(tiny_llava), **own) for own in ({}, {"jpeg_side": 4096}))
    suite = open_suite("folder", benchmark)
    write_result(evaluate(plain, suite), suite, tmp_path, settings_of(small, "m", None))
    assert json.loads((tmp_path / "result.json").read_text())["JPEGs decoded down to a side of"] == 4096
    assert "JPEGs decoded down to a side of: 4096;" in results_section("", [read_card_result(tmp_path)])
    assert not any("JPEG" in key for key in settings_of(plain, "m", None))


def test_an_edit_without_composed_queries_is_refused_by_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"filename": "p.jpg", "split": "test", "sentences": [{"raw": "a dog"}]}]
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": rows}))
    Image.new("RGB", (8, 8)).save(tmp_path / "p.jpg")
    words = ["run", "flickr30k", "--data", str(tmp_path), "--model", "not/loaded/at/all", "--edit-strength", "0.8"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "no composed queries, and no edit to make stronger" in last_error(capsys)
    with pytest.raises(ConfigError, match="no composed queries, and no edit to make stronger"):
        evaluate(None, open_suite("flickr30k", tmp_path), edit_strength=0.8)  # before anything is encoded


def test_a_second_run_gives_the_same_numbers_whatever_the_batch(
    tiny_llava: Path, benchmark: Path, tmp_path: Path
) -> None:
    results = []
    for number, size in enumerate(("1", "4")):
        output = tmp_path / f"out{number}"
        arguments = ["run", str(benchmark), "--model", str(tiny_llava), "--output", str(output)]
        assert main([*arguments, "--sheet", "0", "--batch-size", size]) == 0
        assert sorted(file.name for file in output.iterdir()) == ["per_query.json", "report.html", "result.json"]
        results.append(json.loads((output / "result.json").read_text()))
    for key in ("benchmark", "tasks", "protocol", "versions"):
        assert results[0][key] == results[1][key]


def test_saved_vectors_score_as_the_run_did(
    tiny_llava: Path, cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, scored, vectors = tmp_path / "run", tmp_path / "scored", tmp_path / "vectors"
    data = ["cirr", "--data", str(cirr)]
    assert main(["check", *data]) == 0 and "ready" in capsys.readouterr().out
    model = ["--model", str(tiny_llava), "--save-vectors", str(vectors)]
    assert main(["run", *data, *model, "--output", str(run), "--sheet", "2"]) == 0
    assert main(["score", *data, "--vectors", str(vectors), "--output", str(scored)]) == 0
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (run, scored))
    assert first["tasks"][""]["rows"]["composed"] == second["tasks"][""]["rows"]["composed"]
    assert first["means"]["composed"] == second["means"]["composed"]
    assert first["protocol"]["prompts"]["composed"] and second["protocol"]["prompts"].startswith("unknown")
    assert set(first["tasks"][""]["rows"]) == {"composed", "image only", "text only", "sum"}
    assert first["tasks"][""]["rows"]["composed"]["Rsub@3"]["queries"] == 5
    out = capsys.readouterr().out
    assert "soft R@100" in out and "(R@5 + Rsub@1) / 2" in out


def test_hidden_labels_are_submitted_and_not_scored(
    tiny_llava: Path, cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = ["cirr", "--data", str(cirr)], tmp_path / "server"
    assert main(["check", *data, "--split", "test1"]) == 0
    assert "ready: mllm-embed-eval submit cirr" in capsys.readouterr().out
    assert main(["run", *data, "--split", "test1", "--model", "not/loaded/at/all"]) == 2
    assert "labels of cirr test1 are hidden" in last_error(capsys)
    assert main(["submit", *data, "--model", str(tiny_llava), "--output", str(output)]) == 0
    files = sorted(output.glob("*.json"))
    assert [file.name for file in files] == ["recall.json", "recall_subset.json"]
    assert (output / "report.html").is_file()  # answers can be looked at without labels
    assert main(["submit", *data, "--files", *map(str, files)]) == 0
    assert "fit for the server" in capsys.readouterr().out
    assert main(["submit", *data, "--split", "val", "--files", *map(str, files)]) == 2
    assert "cirr val needs no server" in last_error(capsys)
    content = json.loads(files[0].read_text())
    content["100"][0] = "test1-0-0-img0"  # its own reference
    files[0].write_text(json.dumps(content))
    assert main(["submit", *data, "--files", *map(str, files)]) == 2
    assert 'recall.json: the list of query "100" names the query\'s own reference picture' in last_error(capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1, not 0"),
        (["--sheet", "-1"], "--sheet must be 0 or more, not -1"),
        (["--thumbnails", "-1"], "--thumbnails must be 0 or more megabytes, not -1"),
        (["--output", "bench/benchmark.json"], "is a file"),
        (["--model", "none/at/all"], "none/at/all"),
        (["--adapter", "none/at/all"], "none/at/all"),
        (["--option", "gallery"], "--option takes KEY=VALUE, not 'gallery'"),
        (["--option", "gallery=val"], "folder has no option 'gallery'; it has none"),
        (["--split", "test"], "folder has no split 'test'; it has none"),
        (["--option", "a=b", "--option", "a=c"], "--option a is given twice"),
        (["--data", "x"], "--data and --images belong to a benchmark's name"),
        (["--save-vectors", "bench/0.png"], "--save-vectors bench/0.png: bench/0.png is a file"),
        (["--output", "bench/0.png/deep"], "0.png is a file"),
        (["--device", ""], "a word of the command line is empty, after --device"),
        (["--output", ""], "a word of the command line is empty, after --output"),
    ],
)
def test_bad_arguments_give_one_sentence_and_exit_code_2(
    tiny_llava: Path,
    benchmark: Path,
    tmp_path: Path,
    changes: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "bench", "--model", str(tiny_llava), *changes]) == 2
    assert message in last_error(capsys)
    assert [file.name for file in tmp_path.iterdir()] == ["bench"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nothing"], "neither a benchmark (fashioniq, cirr, circo"),
        (["check", "cirr"], "--data is missing"),
        (["check", "cirr", "--data", "none"], "none is missing"),
        (["score", "cirr", "--data", "bench", "--vectors", "v"], "cap.rc2.val.json"),
        (["submit", "bench", "--vectors", "v"], "my bench has no server; there are servers for cirr and circo"),
        (["submit", "cirr", "--data", "bench", "--vectors", "v", "--adapter", "a"], "--adapter needs --model"),
        (
            ["submit", "cirr", "--data", "bench", "--vectors", "v", "--document-task", "t"],
            "--document-task needs --model",
        ),
        (["submit", "cirr", "--data", "bench", "--files", "f", "--output", "o"], "--files only checks"),
        (["submit", "cirr", "--data", "bench"], "give one of --model, --vectors and --files"),
        (["compare", "none"], "none"),
    ],
)
def test_every_command_refuses_bad_input(
    benchmark: Path,
    tmp_path: Path,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in last_error(capsys)
    assert [file.name for file in tmp_path.iterdir()] == ["bench"]


def test_check_says_what_is_missing_and_where_to_get_it(cirr: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cirr / "dev/dev-7-0-img0.png").unlink()
    assert main(["check", "cirr", "--data", str(cirr)]) == 1
    out = capsys.readouterr().out
    assert "MISSING gallery pictures: 59 of 60, first missing: ./dev/dev-7-0-img0.png" in out.replace(
        ": dev/", ": ./dev/"
    )
    assert "NLVR2" in out
    assert main(["run", "cirr", "--data", str(cirr), "--model", "x"]) == 2
    assert "1 of 60 gallery pictures are missing" in last_error(capsys)


def test_check_counts_the_pictures_of_a_folder_of_ones_own(benchmark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(benchmark)]) == 0
    assert "ok      pictures: 6 of 6\n        5 queries, gallery of 6\n" in capsys.readouterr().out
    (benchmark / "2.png").unlink()
    (benchmark / "4.png").write_bytes(b"")
    assert main(["check", str(benchmark)]) == 1
    out = capsys.readouterr().out
    assert "MISSING pictures: 4 of 6, first missing: " in out and "2.png does not exist" in out and "ready" not in out
    for number in (2, 4):
        shutil.copy(benchmark / "0.png", benchmark / f"{number}.png")
    (benchmark / "pairs.jsonl").write_text('{"id": "p", "image": "lost.png", "caption": "a shoe"}\n')
    assert main(["check", str(benchmark)]) == 1
    assert "MISSING pictures: 6 of 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("5.png", b"a text file", "5.png"),
        ("benchmark.json", b"{", "benchmark.json:1: bad JSON"),
        ("benchmark.json", b'{"name": "x", "gallery": [], "queries": []}', "must be a non-empty list"),
    ],
)
def test_bad_data_gives_one_message_and_leaves_nothing(
    tiny_llava: Path,
    benchmark: Path,
    tmp_path: Path,
    name: str,
    content: bytes,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (benchmark / name).write_bytes(content)
    assert main(["run", str(benchmark), "--model", str(tiny_llava), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_truncated_picture_leaves_nothing(
    tiny_llava: Path, benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (benchmark / "3.png").read_bytes()
    (benchmark / "3.png").write_bytes(whole[: len(whole) // 2])
    assert main(["run", str(benchmark), "--model", str(tiny_llava), "--output", str(tmp_path / "out")]) == 2
    assert "3.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


NAMED = ("run", "score", "check", "rows", "submit", "methods", "robustness")  # a benchmark


@pytest.mark.parametrize("command", [*NAMED, "compare", ""])
def test_help_is_quick_and_teaches(command: str) -> None:
    code = (
        "import sys\n"
        "from eval.cli import main\n"
        f"try:\n    main({[*filter(None, [command]), '--help']})\nexcept SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'torch', 'transformers', 'faiss', 'peft'} & set(sys.modules)\n"
        "raise SystemExit(code or (f'imported {heavy}' if heavy else 0))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    if command in NAMED:
        assert "--option gallery=original|val" in done.stdout and "--split val|test1" in done.stdout
    if command == "run":
        assert "python -m eval run data/shoes" in done.stdout and "contact_sheet.png" in done.stdout


@pytest.mark.parametrize("command", [*NAMED, "compare"])
def test_installed_help_names_the_installed_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from mllm_embed.eval.cli import main as installed

    with pytest.raises(SystemExit) as end:
        installed([command, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and f"usage: mllm-embed-eval {command} " in text and "python -m" not in text
    assert "%%" not in text  # argparse fills a text that names the command, and leaves one that does not
