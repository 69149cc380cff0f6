"""What a user names: words, YAML files, folders to look in; and what is wrong with it, before any model is loaded."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import published
import tiny
from eval.cli import main
from eval.table.found import benchmarks_under
from eval.table.named import NamedModel, read_benchmarks, read_models
from mllm_embed.commands.model_options import add_model_options, add_query_options
from mllm_embed.errors import ConfigError

Make = Callable[..., Any]


def test_a_word_names_a_model_with_its_options(tmp_path: Path, tiny_llava: Path) -> None:
    odd = tmp_path / "a=b+c,d=e"
    odd.mkdir()
    given = {"dtype": "float32", "batch_size": 8}
    plain, named, strange, hub = read_models(
        [
            str(tiny_llava),
            f"ours={tiny_llava}+{tmp_path}/stage2,dim=16,max-tokens=99,truncate=true,jpeg-side=0,dtype=bfloat16,"
            "trained-on=data",
            str(odd),
            "Qwen/Qwen3-VL-Embedding-2B",
        ],
        given | {"jpeg_side": 512},
    )
    assert (plain.jpeg_side, named.jpeg_side) == (512, 0)  # which decodes whole again
    assert (plain.name, plain.model, plain.dtype, plain.batch_size) == (
        f"{tiny_llava.parent.name}/tiny", str(tiny_llava), "float32", 8
    )  # fmt: skip
    assert (named.name, named.adapter, named.dim, named.max_tokens, named.truncate) == (
        "ours", f"{tmp_path}/stage2", 16, 99, True
    )  # fmt: skip
    assert (named.dtype, named.trained_on) == ("bfloat16", ("data",))
    assert (strange.model, strange.adapter) == (str(odd), None)  # a folder that is there is meant as it stands
    assert (hub.name, hub.folder) == ("Qwen/Qwen3-VL-Embedding-2B", "Qwen_Qwen3-VL-Embedding-2B")
    known = read_models(["published"], {})
    assert len(known) == len({model.name for model in known}) > 20 and hub.name in {model.name for model in known}


def test_every_option_of_a_model_can_be_said_of_one() -> None:
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    add_query_options(parser)
    assert set(vars(parser.parse_args(["--model", "x"]))) <= set(NamedModel.model_fields)


def test_files_name_many(tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("- {name: gme, model: somewhere, preset: gme, trained_on: [a, b]}\n- {model: x/y, dim: 8}\n")
    first, second = read_models([str(models)], {"dim": 4})
    assert (first.name, first.preset, first.trained_on, first.dim) == ("gme", "gme", ("a", "b"), 4)
    assert (second.name, second.dim) == ("x/y", 8)
    benchmarks = tmp_path / "benchmarks.yaml"
    benchmarks.write_text(f"- {{benchmark: fashioniq, data: {tmp_path}, options: {{gallery: val}}}}\n")
    (one,) = read_benchmarks([str(benchmarks)])
    assert one.options == {"gallery": "val"} and one.name.startswith("fashioniq val") and "gallery=val" in one.name
    assert [one.name] == [each.name for each in read_benchmarks([f"fashioniq={tmp_path},gallery=val"])]
    (other,) = read_benchmarks([f"cirr={tmp_path},split=test1,images=/pictures"])
    assert (other.name, other.split, other.images) == ("cirr test1", "test1", Path("/pictures"))


def test_benchmarks_are_found_where_they_are_whole(cirr: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(cirr, root / "some name")
    for name in ("mine", "deep/er"):
        tiny.make_data(root / name, 4)
    shutil.copytree(cirr, tmp_path / "half/cirr")
    next((tmp_path / "half/cirr/test1").iterdir()).unlink()
    lines: list[str] = []
    found = benchmarks_under(root, lines.append)
    assert [named.name for named in found] == ["cirr val", "cirr test1", "mine", "deep/er"]
    assert not lines
    (half,) = benchmarks_under(tmp_path / "half", lines.append)
    assert half.name == "cirr val" and len(lines) == 1
    assert "cirr test1" in lines[0] and "1 of 60 gallery pictures missing" in lines[0]
    with pytest.raises(ConfigError, match="no benchmark is whole there"):
        benchmarks_under(root / "mine/images", lines.append)


def test_hidden_labels_are_for_the_server(
    cirr: Path, small: tuple[Path, Path], tiny_llava: Path, make_table: Make, tmp_path: Path
) -> None:
    benchmarks = [f"cirr={cirr}", f"cirr={cirr},split=test1"]
    made = make_table([f"plain={tiny_llava}"], benchmarks, tmp_path / "T")
    assert not made.table.failed
    folder = tmp_path / "T/cirr_test1/plain"
    assert sorted(path.name for path in folder.iterdir()) == ["cell.json", "recall.json", "recall_subset.json"]
    assert len(json.loads((folder / "recall.json").read_text())["100"]) == 50
    assert "labels are hidden; for the server: recall.json and recall_subset.json" in made.text
    assert "upload recall.json and recall_subset.json to" in made.text
    (folder / "recall.json").write_text("{}")
    again = make_table([f"plain={tiny_llava}"], benchmarks, tmp_path / "T")
    assert again.said("what it left is damaged") and len(again.said("kept")) == 1 and not again.table.failed


def test_a_published_model_is_asked_as_its_preset_has_it(
    small: tuple[Path, Path], tiny_llava: Path, make_table: Make, tmp_path: Path
) -> None:
    gme = published.make_published("qwen2_vl", tmp_path / "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct")
    models = [str(gme), f"plain={tiny_llava}", f"wrong={tiny_llava},preset=gme"]
    made = make_table(models, [small[1]], tmp_path / "T")
    notes = [line for line in made.text.splitlines() if line.startswith("<sup>")]
    assert any("prompts: gme (" in line and "as in the authors' code" in line for line in notes)
    assert any("prompts: instructcir (" in line for line in notes)
    # a preset of another family is refused in its own cell
    assert [cell.model.name for cell in made.table.failed] == ["wrong"]
    assert "the preset gme is for qwen2_vl models" in made.failure("wrong", "second")


FAULTS = {
    "models=plain": "there is nothing to measure",
    "models=plain benchmarks=nowhere": "--benchmarks nowhere is neither NAME=ROOT",
    "models=plain benchmarks=cirrr=nowhere": "did you mean 'cirr'?",
    "models=plain benchmarks=cirr=x,split=train": "cirr has no split 'train'",
    "models=plain benchmarks=cirr=x,galery=y": "cirr has no option 'galery'",
    "models=plain benchmarks=second benchmarks=second": "two benchmarks would be called 'second'",
    "models=plain models=plain benchmarks=second": "two models would be called",
    "models=a=x models=A=y benchmarks=second": "two models would be called 'a' and 'A'",
    "models=x,dims=3 benchmarks=second": "there is no 'dims'; did you mean 'dim'?",
    "models=x,dim=a benchmarks=second": "dim is 'a'",
    "models=x,quantization=nf5 benchmarks=second": "quantization is one of nf4, int8",
    "models=x,query-adapter=y benchmarks=second": "query_adapter needs query_model",
    "models==x benchmarks=second": "nothing stands before the '='",
    "models=none.yaml benchmarks=second": "none.yaml cannot be read",
    "models=words.yaml benchmarks=second": "must hold a list of models",
    "models=keys.yaml benchmarks=second": "number 2: it has no model",
    "models=plain benchmarks=texts.yaml": "number 1: it must have keys with values, not 'x'",
    "models=plain data=nowhere": "--data nowhere is missing",
    "models=plain benchmarks=second sheet=-1": "--sheet must be 0 or more",
    "models=plain benchmarks=second batch-size=0": "--batch-size must be at least 1",
    "models=plain benchmarks=second trained-on=nowhere": "--trained-on nowhere is missing",
    "models=plain benchmarks=second output=words.yaml": "words.yaml is a file; give a folder",
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_mistake_is_one_sentence_before_any_model(
    words: str,
    small: tuple[Path, Path],
    tiny_llava: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.yaml").write_text("model: x\n")
    (tmp_path / "texts.yaml").write_text("- x\n")
    (tmp_path / "keys.yaml").write_text("- model: x\n- name: y\n")
    places = {"plain": str(tiny_llava), "second": str(small[1])}
    arguments = []
    for word in words.split():
        flag, _, value = word.partition("=")
        arguments += [f"--{flag}", places.get(value, value)]
    assert main(["table", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and FAULTS[words] in error
    assert not (tmp_path / "runs").exists()


def test_the_command_prints_the_table_and_its_code_tells_of_failures(
    small: tuple[Path, Path],
    tiny_llava: Path,
    make_table: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_table([f"plain={tiny_llava}"], [small[1]], tmp_path / "T")
    words = ["table", "--data", str(small[1]), "--output", str(tmp_path / "T"), "--models", f"plain={tiny_llava}"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "| plain |" in told.out and "table.html" in told.out and "kept, finished before" in told.err
    assert main([*words, "gone=/no/such/model"]) == 1
    assert "failed: gone on second: /no/such/model is not a folder" in capsys.readouterr().err
