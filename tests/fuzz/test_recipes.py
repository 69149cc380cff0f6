"""Malformed recipes and overrides: a sentence, or the recipe that they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fuzz.tools.damages import DAMAGES, MISFITS, TEXTS, damaged, dropped, misfit
from fuzz.tools.harness import RIGHT, TOLD, Case, Told, attempt, expect, plain, sift
from fuzz.tools.json_doors import difference
from mllm_embed.training.recipe.recipe_files import load_recipe

RECIPE = {
    "model": "scripts/assets/base",
    "output": "runs/x",
    "lora": {"rank": 32, "alpha": 64.0, "dropout": 0.1, "projector": True},
    "seed": 3,
    "workers": 1,
    "bf16": False,
    "gradient_checkpointing": False,
    "pooling": "last",
    "stages": {
        "captions": {
            "data": "my_data",
            "rows": "pairs",
            "batch_size": 64,
            "steps": 14,
            "learning_rate": 0.001,
            "temperature": 0.05,
            "terms": [{"query": "image", "positive": "caption", "symmetric": True}],
        },
        "instructions": {
            "data": [{"path": "my_data", "weight": 1.5}],
            "rows": "triplets",
            "epochs": 2.5,
            "matryoshka": [16, 32],
            "terms": [{"query": "composed", "positive": "target_image", "negatives": ["query_image"], "weight": 0.5}],
            "evaluate": {"data": "val", "every": 5},
        },
    },
}
_TEXT = yaml.safe_dump(RECIPE, sort_keys=False)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
YAMLS: dict[str, str] = {
    "a bad date": _TEXT + "seed: 2024-13-45\n",
    "a date": _TEXT.replace("output: runs/x", "output: 2024-01-02"),
    "a tag of python": _TEXT + "prompts: !!python/object/apply:os.system ['true']\n",
    "an unknown tag": _TEXT + "prompts: !frobnicate x\n",
    "an integer of 5,000 digits": _TEXT.replace("seed: 3", "seed: " + "9" * 5000),
    "a float of 5,000 digits": _TEXT.replace("alpha: 64.0", "alpha: 0." + "9" * 5000),
    "10,000 levels": "model: " + "[" * 10_000 + "]" * 10_000,
    "10,000 levels of keys": _TEXT + "x: " + "{a: " * 10_000,
    "a bomb of aliases": BOMB + _TEXT,
    "a bomb in its place": _TEXT.replace("model: scripts/assets/base", BOMB + "model: *j"),
    "a bomb as data": BOMB + _TEXT.replace("data: my_data", "data: *j"),
    "an anchor of itself": _TEXT + "lora: &a {rank: *a}\n",
    "a merge of itself": _TEXT + "x: &x {<<: *x}\n",
    "a key twice": _TEXT + "seed: 4\n",
    "a stage twice": _TEXT.replace("  instructions:", "  captions:"),
    "a key twice within": _TEXT.replace("  rank: 32", "  rank: 32\n  rank: 16"),
    "a merged key": _TEXT.replace("lora:", "base_lora: &l {rank: 8}\nlora:\n  <<: *l"),
    "two documents": _TEXT + "---\n" + _TEXT,
    "only a comment": "# nothing\n",
    "nothing": "",
    "a list": "- a\n- b\n",
    "a word": "demo",
    "a number": "3",
    "a tab": _TEXT.replace("  rank: 32", "\trank: 32"),
    "a key that is null": _TEXT + "null: 1\n",
    "a key that is a list": _TEXT + "? [a, b]\n: 1\n",
    "a key that is an object": _TEXT + "? {a: b}\n: 1\n",
    "a sexagesimal": _TEXT.replace("seed: 3", "seed: 1:30"),
    "an octal": _TEXT.replace("seed: 3", "seed: 010"),
    "a word for a switch": _TEXT.replace("gradient_checkpointing: false", "gradient_checkpointing: 'no'"),
    "a number for a switch": _TEXT.replace("gradient_checkpointing: false", "gradient_checkpointing: 2"),
    "a switch for a number": _TEXT.replace("seed: 3", "seed: true"),
    "10^18 steps": _TEXT.replace("steps: 14", "steps: 1000000000000000000"),
    "10^6 workers": _TEXT.replace("workers: 1", "workers: 1000000"),
    "a batch of 10^12": _TEXT.replace("batch_size: 64", "batch_size: 1000000000000"),
    "10^9 epochs": _TEXT.replace("epochs: 2.5", "epochs: 1000000000"),
    "a rank of 10^9": _TEXT.replace("rank: 32", "rank: 1000000000"),
    "infinite epochs": _TEXT.replace("epochs: 2.5", "epochs: .inf"),
    "a rate of nan": _TEXT.replace("learning_rate: 0.001", "learning_rate: .nan"),
    "a rate of 1e400": _TEXT.replace("learning_rate: 0.001", "learning_rate: 1.0e+400"),
    "a base of itself": "base: recipe.yaml\n" + _TEXT,
    "a base that is missing": "base: nowhere\n" + _TEXT,
    "a base that is a list": "base: [a]\n" + _TEXT,
    "a base that is a folder": "base: ..\n" + _TEXT,
    "a misspelt key": _TEXT.replace("workers: 1", "worker: 1"),
    "a misspelt key within": _TEXT.replace("  rank: 32", "  ranks: 32"),
    "a misspelt role": _TEXT.replace("positive: caption", "positive: captions"),
    "no stages": _TEXT.replace("stages:", "stages: {}\nnotes:"),
    "a surrogate": _TEXT.replace("model: scripts/assets/base", 'model: "\\ud800"'),
    "nul in a path": _TEXT.replace("output: runs/x", 'output: "runs\\0x"'),
}
_FINE_YAMLS = ("a date", "a merged key", "a float of 5,000 digits")
OVERRIDES = [
    "seed", "=3", "", "=", "seed=", "seed=true", "seed=-1", "seed=1e400", "seed=nan", "seed=[", "seed=" + "9" * 5000,
    "seed=2024-13-45", "seed=!!python/name:os.system", "seed=" + "[" * 10_000, "lora=3", "lora.rank.x=3",
    "lora.rank=3.5", "lora.rank=x", "loro.rank=3", "stages.caption.steps=3", "stages.captions.terms.5.weight=1",
    "stages.captions.terms.x=1", "stages.captions.terms=", "stages=", "stages.captions=3", ".=3", "..=", "a.b.c.d=1",
    "workers=1000000", "stages.captions.steps=1000000000000000000", "stages.captions.batch_size=0", "model=",
    "gradient_checkpointing=2", "gradient_checkpointing='no'", "bf16=maybe", "pooling=first", "quantization=nf5",
    "stages.captions.data=https://example.org/a", "seed=&a [*a]", "lora={rank: 1, rank: 2}", "\ud800=1", "seed=\0",
]  # fmt: skip
CASES = [Case(f"a recipe, {name} ({seed})", ("bytes", name, seed)) for name in (*DAMAGES, *TEXTS) for seed in (0, 1)]
CASES += [
    Case(f"a recipe, {name} ({seed})", ("json", name, seed)) for name in (*MISFITS, "a key less") for seed in range(4)
]
CASES += [Case(f"a recipe with {name}", ("yaml", name, 0)) for name in YAMLS]
CASES += [Case(f"a recipe, --override {text[:40]}", ("override", text, 0)) for text in OVERRIDES]
# what a value may be beside what it is: what may be left out, words for words
_LENIENT = ("null", "'1'", "a key less")


def _recipe_text(kind: str, what: str, seed: int) -> bytes:
    if kind == "bytes":
        return damaged(_TEXT.encode(), what, seed)
    if kind == "yaml":
        return YAMLS[what].encode()
    tree = dropped(RECIPE, seed)[0] if what == "a key less" else misfit(RECIPE, what, seed)[0]
    # PyYAML writes no half characters
    return (json.dumps(tree) if what == "a surrogate" else yaml.safe_dump(tree, sort_keys=False)).encode()


def _strict_yaml(data: bytes) -> Any:
    """Return what YAML says; None where it is none, or has a key twice."""

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key) for key, _ in node.value]
        if len(set(map(plain, keys))) < len(keys):
            raise ValueError("a key twice")
        return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        return yaml.load(data.decode("utf-8-sig"), Loader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        return None


@pytest.mark.slow
def test_recipes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(_TEXT)
    whole = load_recipe(path).model_dump_json()

    def judge(case: Case) -> str:
        kind, what, seed = case.what
        overrides = [what] if kind == "override" else []
        path.write_bytes(_TEXT.encode() if overrides else _recipe_text(kind, what, seed))
        found = attempt(lambda: load_recipe(path, overrides).model_dump_json())
        if isinstance(found, Told):
            expect(len(found.sentence) < 2000, f"a sentence of {len(found.sentence):,} letters")
            return TOLD
        if found == whole or what in (*_LENIENT, *_FINE_YAMLS):
            return RIGHT
        expect(kind == "bytes", f"loaded: {difference(whole, found)}")
        there = _strict_yaml(path.read_bytes())
        expect(there is not None, f"loaded, though it is no YAML: {difference(whole, found)}")
        return RIGHT

    sift("recipes", CASES, judge)
