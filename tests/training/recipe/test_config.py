"""Recipes: every shipped one is valid, overrides reach every key, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_embed.errors import ConfigError
from mllm_embed.training.recipe.layers import RECIPES
from mllm_embed.training.recipe.recipe_files import describe_keys, load_any, load_recipe

MINIMAL = """
model: some/model
output: runs/x
stages:
  one: {data: d, rows: pairs, terms: [{query: image, positive: caption}]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(MINIMAL)
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_by_path_and_by_name(path: Path) -> None:
    assert load_any(path) == load_any(path.stem)


def test_overrides(recipe: Path) -> None:
    loaded = load_recipe(
        recipe, ["seed=7", "stages.one.learning_rate=1e-3", "stages.one.terms.0.symmetric=true", "lora.rank=2"]
    )
    assert (loaded.seed, loaded.stages["one"].learning_rate, loaded.lora.rank) == (7, 1e-3, 2)
    assert loaded.stages["one"].terms[0].symmetric


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sead=1", "unknown key 'sead'; did you mean 'seed'"),
        ("stages.one.temprature=1", "unknown key 'stages.one.temprature'; did you mean 'temperature'"),
        ("stages.one.temperature=-1", "stages.one.temperature.*greater than 0"),
        ("stages.one.rows=triplets", "role 'image' does not exist in rows: triplets"),
        ("lora.rank=many", "lora.rank: must be a whole number, not 'many'"),
        ("bf16=maybe", "bf16: must be auto, true or false, not 'maybe'"),
        ("pooling=las", "pooling: must be 'last', 'mean' or 'multi', not 'las'; did you mean 'last'?"),
        ("stages.one.learn_temperature=[1]", "stages.one.learn_temperature: needs at least 2 entries, not 1"),
        ("stages.one.data=[{format: llava}]", "stages.one.data.0.path: is missing"),
        ("stages.one.evaluate=x", "stages.one.evaluate: must be keys with values, not 'x'"),
        ("output=", "output: must be a path, not nothing"),
        ("stages.one.terms.0.query=[image, caption]", "stages.one.terms.0.*2 query roles need as many positive ones"),
        ("stages.one.terms.0.query=[]", "stages.one.terms.0.query: must not be empty"),
        ("stages.one.terms.0.positive=image", "stages.one.terms.0.*image would only find its own vector"),
        (
            "stages.one.terms.0.query=composed_text",
            "role 'composed_text' does not exist in rows: pairs, which offer image",
        ),
        ("stages.one.matryoshka=[64, 32]", r"matryoshka must list increasing dimensions, not \[64, 32\]"),
        ("stages.one.matryoshka=[0, 32]", "stages.one.matryoshka.0.*greater than 0"),
        ("seed", "not of the form key=value"),
        ("model.x=1", "goes below a plain value"),
        ("stages.one.learning_rate=1e", "stages.one.learning_rate"),
        ("stages.one.terms.5.weight=1", "no entry '5'"),
        ("seed=[", "not valid YAML"),
        ("stages=3", "stages"),
    ],
)
def test_wrong_overrides_are_named(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "is a list, not keys"),
        ("", "is empty"),
        ("model: x", "output: is missing"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(ConfigError, match="none.yaml does not exist; give a YAML file or one of: .*demo"):
        load_recipe(tmp_path / "none.yaml")


def test_a_recipe_is_laid_over_its_base(recipe: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {recipe}\nlora: {{rank: 2}}\nstages: {{one: {{batch_size: 8}}}}\n")
    loaded, base = load_recipe(child, ["seed=3"]), load_recipe(recipe)
    assert (loaded.lora.rank, loaded.lora.alpha, loaded.seed, loaded.stages["one"].batch_size) == (2, 32, 3, 8)
    assert (loaded.model, loaded.stages["one"].terms) == (base.model, base.stages["one"].terms)
    child.write_text("base: nowhere")
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        load_recipe(child)


def test_help_tells_every_key() -> None:
    text = describe_keys()
    assert all(word in text for word in ("temperature", "per_image", "gradient_checkpointing", "symmetric", "rank"))
