"""`python -m eval run` with a real tiny model on real files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.cli import main


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


def test_a_run_prints_the_table_and_writes_result_and_sheet(
    tiny_llava: Path,
    benchmark: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(benchmark), "--model", str(tiny_llava), "--dtype", "float32"]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "runs/eval/my_bench"
    assert sorted(file.name for file in folder.iterdir()) == ["contact_sheet.png", "result.json"]
    content = json.loads((folder / "result.json").read_text())
    assert (content["model"], content["adapter"], content["dtype"]) == (str(tiny_llava), None, "float32")
    for name in ("composed", "image only", "text only", "sum"):
        row = content["rows"][name]
        assert row["queries"] == 5 and row["hits"]["10"] == 5
        line = next(line for line in out.splitlines() if line.startswith(name))
        assert line.split()[-2:] == [str(row["hits"]["1"]), "5"]
    assert content["caption_to_image"]["queries"] == 6
    assert content["versions"]["torch"]
    with Image.open(folder / "contact_sheet.png") as image:
        assert image.height > 5 * 128


def test_a_second_run_gives_the_same_numbers_whatever_the_batch(
    tiny_llava: Path, benchmark: Path, tmp_path: Path
) -> None:
    results = []
    for number, size in enumerate(("1", "4")):
        output = tmp_path / f"out{number}"
        arguments = ["run", str(benchmark), "--model", str(tiny_llava), "--output", str(output)]
        assert main([*arguments, "--sheet", "0", "--batch-size", size]) == 0
        assert [file.name for file in output.iterdir()] == ["result.json"]
        results.append(json.loads((output / "result.json").read_text()))
    for key in ("benchmark", "rows", "caption_to_image", "protocol", "versions"):
        assert results[0][key] == results[1][key]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1, not 0"),
        (["--sheet", "-1"], "--sheet must be 0 or more, not -1"),
        (["--output", "bench/benchmark.json"], "is a file"),
        (["--model", "none/at/all"], "none/at/all"),
        (["--adapter", "none/at/all"], "none/at/all"),
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
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert [file.name for file in tmp_path.iterdir()] == ["bench"]


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


def test_help_is_quick_and_teaches() -> None:
    code = (
        "import sys\n"
        "from eval.cli import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'torch', 'transformers', 'faiss', 'peft'} & set(sys.modules)\n"
        "raise SystemExit(code or (f'imported {heavy}' if heavy else 0))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert "python -m eval run data/shoes" in done.stdout and "contact_sheet.png" in done.stdout
