"""`mllm-embed-eval table`: every cell is what `run` gives, is made once, and stands for itself."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.cli import main
from eval.commands.table import _load
from eval.reports.compare import compare
from eval.reports.evaluation import Measuring
from eval.table import inputs
from mllm_embed.data.trained_on import TrainedOn
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.locks import folder_lock
from mllm_embed.saving.versions import versions

Make = Callable[..., Any]
FIGURES = ("benchmark", "tasks", "means", "means of", "protocol", "model", "adapter", "dtype", "versions")


def no_model(model: Any) -> Any:
    raise ModelError(f"{model.name} is not to be loaded")


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def shown(text: str, model: str) -> list[str]:
    """The cells of a model's first line in a table of Markdown, without the numbers of notes and bold."""
    line = next(line for line in text.splitlines() if re.match(rf"\| {model}[ <]", line))
    return [re.sub(r"<sup>.*?</sup>|\*", "", cell).strip() for cell in line.strip("|").split("|")]


def beside(text: str) -> str:
    """What stands beside the figures of the second benchmark."""
    return text[text.index("What the halves", text.index("## second")) :]


@pytest.fixture(scope="module")
def made(
    make_table: Make,
    small: tuple[Path, Path],
    tiny_llava: Path,
    saved_models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    models = [f"plain={tiny_llava}", f"tuned={tiny_llava}+{saved_models['adapter']},dim=32"]
    return make_table(models, small, tmp_path_factory.mktemp("made") / "T")


@pytest.fixture
def copied(made: Any, tmp_path: Path) -> Path:
    """The folder of the table that was made, which a test may spoil."""
    return Path(shutil.copytree(made.table.output, tmp_path / "T"))


def test_a_cell_is_what_run_gives(
    made: Any, small: tuple[Path, Path], tiny_llava: Path, saved_models: dict[str, Path], tmp_path: Path
) -> None:
    words = ["run", str(small[1]), "--model", str(tiny_llava), "--adapter", str(saved_models["adapter"])]
    assert main([*words, "--dim", "32", "--output", str(tmp_path / "run")]) == 0
    cell = made.table.output / "second/tuned"
    ours, theirs = content(cell), content(tmp_path / "run")
    assert {key: ours[key] for key in FIGURES} == {key: theirs[key] for key in FIGURES}
    assert (cell / "per_query.json").read_bytes() == (tmp_path / "run/per_query.json").read_bytes()
    assert (cell / "contact_sheet.png").read_bytes() == (tmp_path / "run/contact_sheet.png").read_bytes()
    percent = ours["tasks"][""]["rows"]["composed"]["R@1"]["percent"]
    assert shown(made.text, "tuned")[2] == f"{percent:.2f}"
    folders = [made.table.output / "second" / name for name in ("plain", "tuned")]
    assert "Paired tests" in compare(folders, "markdown")


def test_all_forms_say_the_same_and_what_differs_is_told(made: Any) -> None:
    output, text = made.table.output, made.text
    assert re.search(r"<sup>1</sup> .*dim: 32\.", text) and "dtype: float32" in text  # the one differs, the other not
    section = beside(text)
    for row in ("image only", "text only", "sum"):
        percent = content(output / "second/plain")["tasks"][""]["rows"][row]["R@1"]["percent"]
        column = shown(section, "model").index(f"R@1, {row}")
        assert shown(section, "plain")[column] == f"{percent:.2f}"
    record = json.loads((output / "second/plain/cell.json").read_text())["cost"]
    assert shown(section, "plain")[shown(section, "model").index("seconds")] == f"{record['seconds']:.1f}"
    assert record["memory"] > 2**20 and record["loading"] > 0 and record["device_memory"] is None
    latex, page = (output / "table.tex").read_text(), (output / "table.html").read_text()
    for figure in re.findall(r"\d+\.\d\d", "".join(shown(text, "tuned"))):
        assert figure in latex and figure in page
    assert r"\textsuperscript{1}" in latex and latex.count(r"\begin{tabular}") == 5
    assert "<sup>1</sup>" in page and not re.search(r"(src|href)=|url\(|@import", page)


def test_what_is_unchanged_is_kept_and_the_table_the_same(
    made: Any, make_table: Make, small: tuple[Path, Path], tiny_llava: Path, saved_models: dict[str, Path]
) -> None:
    before = {path: path.read_bytes() for path in made.table.output.rglob("*") if path.is_file()}
    models = [f"plain={tiny_llava},batch-size=3", f"tuned={tiny_llava}+{saved_models['adapter']},dim=32"]
    again = make_table(models, small, made.table.output, load=no_model)
    assert len(again.said("kept, finished before")) == 4 and not again.table.failed
    assert {path: path.read_bytes() for path in made.table.output.rglob("*") if path.is_file()} == before


CHANGES: dict[str, dict[str, Any]] = {
    "another pictures": {},
    "another fingerprint": {},
    "another model's config.json": {},
    "dim is new": {"given": {"dim": 16}},
    "ties: gallery, now optimistic": {"measuring": Measuring(ties="optimistic")},
    "version of torch: ": {},
    "asked for": {"again": True},
    "what it left is damaged": {},
    "its cell.json is damaged": {},
}


@pytest.mark.parametrize("why", CHANGES)
def test_what_has_changed_is_made_again_and_says_why(
    why: str,
    made: Any,
    copied: Path,
    make_table: Make,
    small: tuple[Path, Path],
    tiny_llava: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Path(shutil.copytree(small[1], tmp_path / "second"))
    model = Path(shutil.copytree(tiny_llava, tmp_path / "model"))
    spoil(why, bench, model, copied / "second/plain", monkeypatch)
    again = make_table([f"plain={model}"], [bench], copied, load=no_model, **CHANGES[why])
    (line,) = again.said("plain on second: to be made again: ")
    assert why in line and ";" not in line.partition("(")[0]
    (failure,) = [cell.failure for cell in again.table.failed]
    assert failure.startswith("plain is not to be loaded") and (copied / "second/plain/per_query.json").is_file()
    assert ("still holds what an earlier run made" in failure) == ("cell.json" not in why)


def spoil(why: str, bench: Path, model: Path, cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "another pictures":  # of the same name, size and time
        picture = bench / "images/1.png"
        before, content = picture.stat(), bytearray(picture.read_bytes())
        content[-20] ^= 1
        picture.write_bytes(content)
        os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif why == "another fingerprint":
        file = bench / "benchmark.json"
        file.write_text(file.read_text().replace("make it like number 1", "make it like number one"))
    elif why == "another model's config.json":
        (model / "config.json").write_text((model / "config.json").read_text() + " ")
    elif why == "version of torch: ":
        monkeypatch.setattr(inputs, "versions", lambda: {**versions(), "torch": "0"})
    elif why == "what it left is damaged":
        (cell / "result.json").write_text("{")
    elif why == "its cell.json is damaged":
        (cell / "cell.json").write_text('{"format": 1}')


def test_a_folder_that_no_table_made_is_left_alone(
    copied: Path, make_table: Make, small: tuple[Path, Path], tiny_llava: Path
) -> None:
    (copied / "second/plain/cell.json").unlink()
    told = make_table([f"plain={tiny_llava}"], [small[1]], copied, load=no_model, again=True)
    assert "second/plain holds something that no table made" in told.failure("plain", "second")
    assert (copied / "second/plain/result.json").is_file()


def test_a_cell_that_fails_says_why_and_the_others_go_on(
    make_table: Make, small: tuple[Path, Path], tiny_llava: Path, tmp_path: Path
) -> None:
    bench = Path(shutil.copytree(small[0], tmp_path / "first"))
    (bench / "images/3.png").unlink()

    def load(model: Any) -> Any:
        errors = {
            "full": MemoryError(),
            "gpu": torch.OutOfMemoryError("CUDA out of memory."),
            "lacks": ImportError("no x"),
        }
        if model.name in errors:
            raise errors[model.name]
        return _load(model)

    models = ["gone=/no/such/model", *(f"{name}={tiny_llava}" for name in ("full", "gpu", "lacks", "good"))]
    made = make_table(models, [bench, small[1]], tmp_path / "T", load=load)
    assert "/no/such/model is not a folder with a model" in made.failure("gone", "second")
    assert "out of memory (MemoryError): take a smaller batch" in made.failure("full", "second")
    assert "out of memory (CUDA out of memory.): take a smaller batch" in made.failure("gpu", "second")
    assert "a package is missing (no x): install it" in made.failure("lacks", "second")
    assert "images/3.png" in made.failure("good", "first") and not made.failure("good", "second")
    for name, sentence in (("gone", "is not a folder"), ("full", "out of memory"), ("good", "images/3.png")):
        column = 1 if name == "good" else 2
        assert sentence in shown(made.text, name)[column]
    assert re.fullmatch(r"\d+\.\d\d", shown(made.text, "good")[2])
    assert r"\parbox[t]{5cm}{\raggedright failed: out of memory" in (tmp_path / "T/table.tex").read_text()


def test_what_changes_while_it_is_measured_does_not_count(
    make_table: Make, small: tuple[Path, Path], tiny_llava: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_llava, tmp_path / "model"))

    def load(named: Any) -> Any:
        embedder = _load(named)
        (model / "config.json").write_text((model / "config.json").read_text() + " ")
        return embedder

    first = make_table([f"one={model}"], [small[1]], tmp_path / "T", load=load)
    assert (
        first.failure("one", "second")
        == "another model's config.json while it was measured: start the same command again"
    )
    again = make_table([f"one={model}"], [small[1]], tmp_path / "T")
    assert again.said("one on second: to be made again: ") and not again.table.failed


def test_a_killed_table_goes_on_with_the_cell_that_it_was_at(
    make_table: Make, small: tuple[Path, Path], tiny_llava: Path, other_llava: Path, tmp_path: Path
) -> None:
    output, models = tmp_path / "T", [f"one={tiny_llava}", f"two={other_llava}"]

    def until_third(line: str) -> None:
        if line.startswith("[3/4] two on first") and "done" not in line:
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(
        target=make_table, args=(models, small, output), kwargs={"tell": until_third}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted(path.parent.name for path in output.rglob("cell.json")) == ["one", "one"]
    assert "not made yet" in (output / "table.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in output.rglob("result.json")}
    made = make_table(models, small, output)
    assert len(made.said("one on ")) == len(made.said("kept, finished before")) == 2 and not made.table.failed
    assert {path: path.stat().st_mtime_ns for path in before} == before
    whole = make_table(models, small, tmp_path / "whole")
    for path in sorted(output.rglob("result.json")):
        ours, theirs = content(path.parent), content(whole.table.output / path.parent.relative_to(output))
        assert {key: ours[key] for key in FIGURES} == {key: theirs[key] for key in FIGURES}
    assert not list(output.glob("*/.*")) and len(made.said("left")) == 1  # one line tells of the time to come


def test_a_process_of_its_own_that_is_killed_costs_its_cell_alone(
    make_table: Make, small: tuple[Path, Path], tiny_llava: Path, tmp_path: Path
) -> None:
    lines: list[str] = []

    def kill_at_second(line: str) -> None:
        lines.append(line)
        if line.startswith("[2/2] one on second"):
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, signal.SIGKILL)

    made = make_table([f"one={tiny_llava}"], small, tmp_path / "T", isolated=True, tell=kill_at_second)
    assert not made.failure("one", "first") and content(tmp_path / "T/first/one")["dtype"] == "float32"
    assert "its process was ended by SIGKILL, as a system does that has no memory left" in made.failure("one", "second")
    assert any("time left" in line or "left" in line for line in lines)
    with folder_lock(tmp_path / "T"), pytest.raises(ConfigError, match="another process is writing to"):
        make_table([f"one={tiny_llava}"], small, tmp_path / "T", load=no_model)


def test_a_model_that_is_not_there_any_more_keeps_its_figures(
    made: Any, copied: Path, make_table: Make, small: tuple[Path, Path]
) -> None:
    again = make_table(["plain=/gone/since", "tuned=/gone/too"], small, copied, load=no_model)
    assert not again.table.failed
    assert "kept from an earlier run, and not compared with the model as it is now: /gone/since is not a" in again.text
    assert shown(again.text, "plain") == shown(made.text, "plain")


def test_leaks_are_counted_anew_without_a_new_cell(
    made: Any, copied: Path, make_table: Make, small: tuple[Path, Path], tiny_llava: Path, tmp_path: Path
) -> None:
    assert shown(beside(made.text), "plain").count("not known") == 2
    model = Path(shutil.copytree(tiny_llava, tmp_path / "model"))
    told = make_table([f"plain={model},trained-on={small[1]}"], small, copied, load=no_model)
    line = shown(beside(told.text), "plain")
    assert "2 of 4" in line and "4 of 4" in line  # two of its triplets ask as queries do, and all pictures are shown
    TrainedOn(unknown=("a text file",)).save(model / "trained_on.safetensors")
    told = make_table([f"plain={model}"], small, copied, load=no_model)
    assert not told.table.failed and "leaks as far as known: what is in a text file is not" in told.text
    assert "0 of 4" in shown(beside(told.text), "plain")
