"""Training with a token learner: it learns, is resumed and told apart; and local alignment is its formula."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import tiny
from mllm_embed import MLLMEmbedder, Query
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.training.cli import main
from mllm_embed.training.loss.local_alignment import local_alignment
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run import stage_run
from mllm_embed.training.run.stages import run_recipe

WEIGHTS = "token_learner/model.safetensors"


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> Path:
    values = {
        "model": str(tiny_llava), "output": str(tmp_path / "run"), "bf16": False, "lora": {"rank": 4, "dropout": 0.1},
        "token_learner": {"tokens": 4, "local": 0.5}, "trained_on": False,
        "stages": {
            "queries": {
                "data": str(data), "rows": "triplets", "batch_size": 4, "learning_rate": 1e-2, "steps": 4,
                "save_steps": 2, "chunk_tokens": 4096, "terms": [{"query": "composed", "positive": "target_image"}],
            }
        },
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def _first(run: Path) -> dict[str, float]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return next(line for line in lines if "loss" in line)


def test_local_alignment_is_its_formula() -> None:
    torch.manual_seed(0)
    learned, local = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    for z, f, found in zip(learned, local, local_alignment(learned, local), strict=True):
        cosines = [[float(a @ b / (a.norm() * b.norm())) for b in f] for a in z]
        near = (
            sum(1 - max(row) for row in cosines) / 3 + sum(1 - max(column) for column in zip(*cosines, strict=True)) / 4
        )
        assert float(found) == pytest.approx(near, abs=1e-6)
    learned.requires_grad_(True), local.requires_grad_(True)
    local_alignment(learned, local).sum().backward()
    assert learned.grad.abs().sum() > 0 and local.grad is None


def test_a_run_learns_and_a_stopped_one_ends_alike(
    recipe: Path, tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_recipe(load_recipe(recipe, []))
    stopped = load_recipe(recipe, [f"output={tmp_path / 'stopped'}"])
    save = stage_run.ContrastiveTrainer._save_checkpoint

    def stop(self, *given) -> None:
        save(self, *given)
        raise ModelError("stopped here")

    with monkeypatch.context() as patched:
        patched.setattr(stage_run.ContrastiveTrainer, "_save_checkpoint", stop)
        with pytest.raises(ModelError, match="stopped here"):
            run_recipe(stopped)
    with pytest.raises(ConfigError, match=r"token_learner.tokens: 4, now 5"):
        run_recipe(load_recipe(recipe, [f"output={tmp_path / 'stopped'}", "token_learner.tokens=5"]))
    run_recipe(stopped)
    for file in ("adapter_model.safetensors", WEIGHTS):
        one, two = (load_file(folder / file) for folder in (whole, tmp_path / "stopped/queries"))
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert two["maps.weight"].abs().max() > 1e-3 and two["picture.out.weight"].abs().max() > 1e-3
    model = MLLMEmbedder.from_pretrained(tiny_llava, adapter=whole, dtype="float32")
    query = Query(data / "images/0.png", "make it red")
    assert model.item_processor([query])["input_ids"].shape[1] == 44 and model.settings.picture_tokens == 4
    model.save_pretrained(tmp_path / "merged", merge=True)
    merged = MLLMEmbedder.from_pretrained(tmp_path / "merged", dtype="float32")
    assert merged.encode([query]) == pytest.approx(model.encode([query]), abs=1e-5)


def test_the_loss_does_not_depend_on_chunks(recipe: Path, tmp_path: Path) -> None:
    short = ["stages.queries.steps=1", "lora.dropout=0"]
    for name, tokens in (("whole", 4096), ("cut", 60)):
        run_recipe(load_recipe(recipe, [*short, f"output={tmp_path / name}", f"stages.queries.chunk_tokens={tokens}"]))
    one, two = _first(tmp_path / "whole"), _first(tmp_path / "cut")
    assert 0 < one["loss/local"] == pytest.approx(two["loss/local"], abs=1e-4)
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)
    assert one["loss"] == pytest.approx(one["loss/local"] + one["loss/composed-target_image"], abs=1e-3)


def test_a_query_encoder_may_have_one(recipe: Path, data: Path, saved_models: dict[str, Path], tmp_path: Path) -> None:
    small = tiny.make_tiny_llava(tmp_path / "small", seed=3, width=32)
    taught = ["stages.queries.steps=2", f"model={small}", f"teacher={{model: {saved_models['merged']}}}"]
    terms = "stages.queries.terms=[{query: composed, positive: target_image, taught: true}]"
    student = MLLMEmbedder.from_pretrained(small, adapter=run_recipe(load_recipe(recipe, [*taught, terms])))
    assert student.dimension == 64 and student.settings.picture_tokens == 4 and student.settings.target_space


def test_adapters_with_learners_of_their_own_are_not_added_and_go_on(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["stages.queries.steps=1", "token_learner.local=0"]
    one = run_recipe(load_recipe(recipe, short))
    two = Path(shutil.copytree(one, tmp_path / "two"))
    save_file({name: 2 * tensor for name, tensor in load_file(one / WEIGHTS).items()}, two / WEIGHTS)
    assert main(["merge", str(one), str(two), "--output", str(tmp_path / "sum")]) == 2
    assert "have heads of their own, a token learner or a projection" in capsys.readouterr().err
    assert main(["merge", str(one), str(one), "--weights", ".5", ".5", "--output", str(tmp_path / "sum")]) == 0
    assert (tmp_path / "sum" / WEIGHTS).read_bytes() == (one / WEIGHTS).read_bytes()
    on = [*short, f"adapter={one}", "lora=null", f"output={tmp_path / 'on'}"]
    with pytest.raises(ConfigError, match="token_learner.tokens is 5, and the model to go on from makes 4"):
        run_recipe(load_recipe(recipe, [*on, "token_learner.tokens=5"]))
    frozen = "stages.queries.terms=[{query: composed, positive: target_image, frozen: true}]"
    with pytest.raises(ConfigError, match="stage 'queries' has a frozen term"):
        run_recipe(load_recipe(recipe, [*on, "token_learner=null", frozen]))
    later = run_recipe(load_recipe(recipe, [*on, "token_learner=null"]))
    assert not torch.equal(*(load_file(folder / WEIGHTS)["maps.weight"] for folder in (one, later)))


def test_a_plan_counts_it(recipe: Path, uncounted: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert "token learner 0.0" in said and "4 image tokens" in said
