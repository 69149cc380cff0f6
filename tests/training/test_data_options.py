"""What data the arguments of a command name: as a recipe's `data` names it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from mllm_embed.errors import ConfigError
from mllm_embed.training.commands.data_options import NamedData, add_data_options, read_sources
from mllm_embed.training.data.source import DataSource


def named(*words: object) -> NamedData:
    parser = argparse.ArgumentParser()
    add_data_options(parser)
    return read_sources(parser.parse_args([str(word) for word in words]))


def test_a_folder_needs_nothing_and_others_their_options() -> None:
    assert named("my_data").sources == (DataSource(path="my_data"),)
    (source,) = named("train.jsonl", "--format", "mbeir", "--pool", "pool.jsonl", "--images", "M-BEIR").sources
    assert source == DataSource(path="train.jsonl", format="mbeir", pool="pool.jsonl", images="M-BEIR")
    both = named("a/*.parquet", "b.tar", "--column", "image=picture", "--column", "caption=meta.text").sources
    columns = {"image": "picture", "caption": "meta.text"}
    assert both == tuple(DataSource(path=path, format="columns", columns=columns) for path in ("a/*.parquet", "b.tar"))
    (renamed,) = named("x.json", "--format", "llava", "--column", "image=file").sources
    assert (renamed.format, renamed.columns) == ("llava", {"image": "file"})


STAGE = """
    rows: triplets
    terms: [{query: composed, positive: target_image}]
    data: [{path: one, query_task: find it}, two]
"""


def test_a_yaml_file_names_what_a_recipe_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = (DataSource(path="one", query_task="find it"), DataSource(path="two"))
    (tmp_path / "list.yaml").write_text("- {path: one, query_task: find it}\n- two\n")
    (tmp_path / "data.yml").write_text("data: [{path: one, query_task: find it}, two]\n")
    assert named(tmp_path / "list.yaml") == named(tmp_path / "data.yml") == NamedData(sources)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: m\noutput: o\nstages:\n  first: {STAGE}")
    found = named(recipe)
    assert found.sources == sources and found.stage and found.stage.rows == "triplets"
    recipe.write_text(f"{recipe.read_text()}  second: {STAGE.replace('one', 'three')}")
    assert named(recipe, "--stage", "second").sources[0].path == Path("three")
    assert named("demo", "--stage", "instructions").sources == (DataSource(path="runs/demo/data/train"),)
    assert named("demo-reranker", "--stage", "siblings").sources == (DataSource(path="runs/reranker/data/train"),)
    stage = {"rows": "triplets", "batch_size": 2, "terms": [{"form": "softmax"}]}
    stage["data"] = [{"path": "one", "query_task": "judge"}]  # which the embedder that mines may not know
    judge = {"model": "m", "output": "o", "reranker": {}, "stages": {"one": stage}}
    (tmp_path / "judge.yaml").write_text(json.dumps(judge))
    assert named(tmp_path / "judge.yaml").sources == (DataSource(path="one"),)
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    assert named("demo") == NamedData((DataSource(path="demo"),))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.json"], "x.json is no data folder: say with --format how it is written (cirr, columns,"),
        (["shards/*.parquet"], "is no data folder: say with --format"),
        (["x.json", "--format", "llavva"], "'llavva' is none of the known formats"),
        (["x", "--column", "image"], "--column is OURS=THEIRS"),
        (["http://host/x.json"], "is a URL, and nothing is downloaded"),
        (["x", "--stage", "first"], "--stage is of a recipe, and no DATA is a YAML file"),
        (["list.yaml", "x"], "give it alone"),
        (["list.yaml", "--format", "llava"], "--format has no meaning beside list.yaml"),
        (["list.yaml", "--stage", "first"], "--stage is of a recipe, and list.yaml is a list of sources"),
        (["wrong.yaml"], "wrong.yaml: unknown key '0.colums'; did you mean 'columns'?"),
        (["none.yaml"], "none.yaml names no sources: list them"),
        (["recipe.yaml"], "recipe recipe.yaml has several stages; say with --stage which: first, second"),
        (["recipe.yaml", "--stage", "frist"], "has no stage 'frist'; did you mean 'first'?"),
        (["gone.yaml"], "file of sources gone.yaml cannot be read"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.json").write_text("[]")
    Path("list.yaml").write_text("[one, two]")
    Path("wrong.yaml").write_text("[{path: one, colums: {}}]")
    Path("none.yaml").write_text("")
    Path("recipe.yaml").write_text(f"model: m\noutput: o\nstages:\n  first: {STAGE}  second: {STAGE}")
    with pytest.raises(ConfigError) as error:
        named(*words)
    assert said in str(error.value)
