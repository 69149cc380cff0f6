"""Recipes over recipes: chains, what null takes away, the order of stages, own prompts; and a recipe printed whole."""

from __future__ import annotations

import json
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest

from mllm_embed.errors import ConfigError
from mllm_embed.training.cli import main
from mllm_embed.training.recipe.form import form_fingerprints, prompts_of
from mllm_embed.training.recipe.layers import RECIPES
from mllm_embed.training.recipe.recipe_files import SECTIONS, load_any, load_recipe

BASE = """
model: some/model
output: runs/x
lora: {rank: 8, dropout: 0.1}
stages:
  captions: {data: d, rows: pairs, steps: 9, batch_size: 8, terms: [{query: image, positive: caption, symmetric: true}]}
  instructions:
    data: [{path: a}, {path: b}]
    rows: triplets
    terms: [{query: composed, positive: target_image}, {query: composed, positive: target_text}]
    evaluate: {data: v, every: 5}
"""
OWN = {"name": "mine", "image": "See:", "composed": 'But "{instruction}":', "text": "{text}\nIn short:"}
TEXTS = "{data: d, rows: texts, terms: [{query: source_text, positive: target_text}]}"


def write(folder: Path, **files: str) -> Path:
    """Write recipes by name into `folder` and return the last one's file."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{list(files)[-1]}.yaml"


def test_a_chain_of_bases_is_laid_over_each_other_from_the_ground_up(tmp_path: Path) -> None:
    write(tmp_path / "ground", base=BASE)
    write(tmp_path / "middle", size="base: ../ground/base.yaml\nlora: {rank: 16}\nseed: 1\n")
    top = write(tmp_path / "top", top="base: ../middle/size.yaml\nlora: {alpha: 4}\nstages: {captions: {steps: 3}}\n")
    loaded = load_recipe(top, ["seed=2"])
    assert (loaded.lora.rank, loaded.lora.alpha, loaded.lora.dropout, loaded.seed) == (16, 4, 0.1, 2)
    assert (loaded.stages["captions"].steps, loaded.stages["captions"].batch_size) == (3, 8)


def test_a_list_is_replaced_as_a_whole(tmp_path: Path) -> None:
    text = "base: base.yaml\nstages: {instructions: {data: c, terms: [{query: composed, positive: target_text}]}}"
    stage = load_recipe(write(tmp_path, base=BASE, top=text)).stages["instructions"]
    assert [source.path.name for source in stage.data] == ["c"]
    assert [term.name for term in stage.terms] == ["composed-target_text"]


def test_null_takes_keys_stages_and_sections_of_the_base_away(tmp_path: Path) -> None:
    text = "base: base.yaml\nlora: {dropout: null}\nstages: {captions: null, instructions: {evaluate: null}}"
    loaded = load_recipe(write(tmp_path, base=BASE, top=text))
    assert (list(loaded.stages), loaded.lora.rank, loaded.lora.dropout) == (["instructions"], 8, 0.05)
    assert loaded.stages["instructions"].evaluate is None
    same = load_recipe(tmp_path / "base.yaml", ["lora.dropout=null", "stages.captions=null",
                                                "stages.instructions.evaluate=null"])  # fmt: skip
    assert same == loaded
    with pytest.raises(ConfigError, match="stages.caption: must be keys with values, not nothing"):
        load_recipe(write(tmp_path, top="base: base.yaml\nstages: {caption: null}"))


def test_order_puts_stages_in_another_order_and_leaves_others_out(tmp_path: Path) -> None:
    write(tmp_path, base=BASE)
    over = "base: base.yaml\nstages: {texts: " + TEXTS + "}"
    top = write(tmp_path, top=f"{over}\norder: [texts, captions]")
    assert list(load_recipe(top).stages) == ["texts", "captions"]
    assert list(load_recipe(write(tmp_path, above="base: top.yaml\norder: [captions]")).stages) == ["captions"]
    wrong = {
        "order: [caption]": "order names the stage 'caption', which is not there; did you mean 'captions'",
        "order: [captions, captions]": "order names the stage 'captions' twice",
        "order: captions": "order is a list of names of stages, not 'captions'",
        "order: []": "order is a list of names",
    }
    for text, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            load_recipe(write(tmp_path, wrong=f"base: base.yaml\n{text}"))


def test_a_circle_of_bases_is_told(tmp_path: Path) -> None:
    top = write(tmp_path, a="base: b.yaml", b="base: c.yaml", c="base: ./b.yaml", top="base: a.yaml")
    with pytest.raises(ConfigError, match=r"c.yaml: its bases go in a circle: \S+/b.yaml -> \S+/c.yaml -> \S+b.yaml;"):
        load_recipe(top)
    with pytest.raises(ConfigError, match="in a circle"):
        load_recipe(write(tmp_path, itself="base: itself.yaml"))
    with pytest.raises(ConfigError, match="broken.yaml: its base: recipe nowhere does not exist"):
        load_recipe(write(tmp_path, broken="base: nowhere"))
    with pytest.raises(ConfigError, match="base is the name of one other recipe, not 3"):
        load_recipe(write(tmp_path, broken="base: 3"))


@pytest.mark.parametrize("name", ["demo", "qwen2-vl-7b", "demo-query", "rtd-texts"])
def test_a_recipe_printed_whole_is_trained_alike(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--override", "seed=7", "--override", f"prompts={json.dumps(OWN)}"]
    assert main(["show", name, *words]) == 0
    whole = write(tmp_path, whole=capsys.readouterr().out)
    assert "base:" not in whole.read_text()
    assert load_recipe(whole) == load_recipe(name, words[1::2])


def test_shown_recipes_name_their_chain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "qwen2-vl-7b", "--override", "seed=1"]) == 0
    assert capsys.readouterr().out.startswith("# qwen2-vl-7b.yaml over qwen2-vl-2b.yaml, with seed=1\nmodel: Qwen")


def test_prompts_stand_in_a_recipe_itself_and_are_laid_over_key_by_key(tmp_path: Path) -> None:
    top = write(tmp_path, base=f"{BASE}\nprompts: {json.dumps(OWN)}", top="base: base.yaml\nprompts: {image: 'Look:'}")
    prompts = prompts_of(load_recipe(top))
    assert prompts is not None
    assert prompts.to_dict().items() >= {**OWN, "image": "Look:"}.items()
    without = prompts_of(load_recipe(top, ["prompts.name=null"]))
    assert without is not None and without.name == "own"
    first, second = (form_fingerprints(load_recipe(path)) for path in (tmp_path / "base.yaml", top))
    assert first.keys() == second.keys() == {"prompts"} and first != second


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("{image: a, composed: b, text: '{text}'}", "prompts: prompt set 'own': the composed prompt must hold"),
        ("{image: a}", "prompts: no prompts.composed"),
        ("{imge: a}", "prompts: no prompts.image"),
        ("3", "prompts: must be a name, a file, or the keys of a prompt set, not 3"),
        ("''", "prompts: must be a name, a file"),
        ("[a]", "prompts: must be a name, a file"),
    ],
)
def test_prompts_that_are_none_are_named(tmp_path: Path, prompts: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, top=f"{BASE}\nprompts: {prompts}"))


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_is_described_and_null_says_nothing_but_that_it_is_not_given(title: str) -> None:
    for name, field in SECTIONS[title].model_fields.items():
        described = field.description or (name in SECTIONS and SECTIONS[name].__doc__)
        assert described, f"{title}.{name} has no description"
        if _takes_none(field.annotation):
            assert field.default is None, f"{title}.{name}: null takes a key away, which gives its default"


def _takes_none(kind: Any) -> bool:
    return kind is NoneType or any(map(_takes_none, get_args(kind)))


def test_every_shipped_recipe_is_reached_as_a_base(tmp_path: Path) -> None:
    for path in RECIPES.glob("*.yaml"):
        assert load_any(write(tmp_path, top=f"base: {path.stem}")) == load_any(path)
