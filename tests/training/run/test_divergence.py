"""A run that has gone wrong stops with a diagnosis before its weights change, and its last good checkpoint is kept."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from mllm_embed.errors import ModelError
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.stage_keys.terms import RoleUse
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stages import run_recipe

TERM = {"query": "image", "positive": "caption", "symmetric": True}


def _recipe(tiny_llava: Path, data: Path, output: Path, **keys: object) -> Recipe:
    stage = {"data": data, "rows": "pairs", "batch_size": 4, "steps": 6, "save_steps": 2, "learning_rate": 1e-2}
    return Recipe(
        model=str(tiny_llava), output=output, bf16=False, stages={"captions": stage | {"terms": [TERM]} | keys}
    )


def _checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints/captions").glob("checkpoint-*"))


def _stopped(recipe: Recipe) -> str:
    with pytest.raises(ModelError) as caught:
        run_recipe(recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_vector_that_is_nan_is_traced_to_its_row(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(tiny_llava, data, tmp_path / "run")
    real, seen = trainer_module.gather, []

    def spoilt(vectors, batch, rows):
        gathered = real(vectors, batch, rows)
        seen.append(batch.ids)
        if len(seen) == 3:
            gathered.vectors.data[gathered.places[RoleUse("caption")][batch.ids.index(seen[2][1])]] = float("nan")
        return gathered

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "gather", spoilt)
        told = _stopped(recipe)
    assert "stage 'captions' stopped at step 3" in told and "learning rate 0.00" in told
    assert f"the vectors of row {seen[2][1]} (caption) are not finite" in told
    assert f"the last good checkpoint, {tmp_path / 'run/checkpoints/captions/checkpoint-2'}, is kept" in told
    assert _checkpoints(tmp_path / "run") == ["checkpoint-2"] and not (tmp_path / "run/captions").exists()
    run_recipe(recipe)  # goes on from there
    assert (tmp_path / "run/captions/adapter_config.json").is_file()


def test_a_loss_that_is_not_finite_names_its_term(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer_module.term_loss
    monkeypatch.setattr(
        trainer_module,
        "term_loss",
        lambda term, *rest: (lambda found: found._replace(loss=found.loss / (term.weight - 2)))(real(term, *rest)),
    )
    terms = [TERM, {"query": "caption", "positive": "image", "weight": 2}]
    told = _stopped(_recipe(tiny_llava, data, tmp_path / "run", terms=terms))
    assert "stopped at step 1" in told and "the loss of caption-image is inf while all vectors are finite" in told
    assert "there is no checkpoint yet" in told


def test_a_gradient_that_is_not_finite_changes_no_weight(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    real, steps = trainer_module.gather, []
    monkeypatch.setattr(trainer_module, "gather", lambda vectors, *rest: real(Broken.apply(vectors), *rest))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args, **kwargs: steps.append(1))
    told = _stopped(_recipe(tiny_llava, data, tmp_path / "run"))
    assert "the norm of the gradient is nan while the loss is finite" in told and not steps


def test_weights_that_are_not_finite_reach_no_checkpoint(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = torch.optim.AdamW.step, []

    def step(self, *args, **kwargs):
        done = real(self, *args, **kwargs)
        steps.append(1)
        if len(steps) == 4:
            self.param_groups[0]["params"][0].data[0] = float("inf")
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    told = _stopped(_recipe(tiny_llava, data, tmp_path / "run"))
    assert "stopped at step 4" in told and "left model.backbone." in told and "checkpoint-2, is kept" in told
    kept = load_file(tmp_path / "run/checkpoints/captions/checkpoint-2/trainable.safetensors")
    assert _checkpoints(tmp_path / "run") == ["checkpoint-2"] and all(map(lambda t: t.isfinite().all(), kept.values()))


def _collapsing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From the next step but `after` on all vectors point nearly one way."""
    real, steps = trainer_module.gather, count()

    def gather(vectors, batch, rows):
        gathered = real(vectors, batch, rows)
        if next(steps) < after:
            return gathered
        one_way = torch.eye(gathered.vectors.shape[1])[0] * 10
        return replace(gathered, vectors=F.normalize(gathered.vectors + one_way, dim=1))

    monkeypatch.setattr(trainer_module, "gather", gather)


def test_collapse_stops_and_keeps_a_checkpoint_from_before(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _collapsing(monkeypatch, after=4)
    told = _stopped(_recipe(tiny_llava, data, tmp_path / "run", steps=20, save_steps=1, max_cosine=0.9))
    rose = re.search(
        r"the vectors have collapsed: their mean cosine rose from (0\.\d+) to (0\.\d+) and lay above", told
    )
    assert float(rose[1]) < 0.5 and float(rose[2]) > 0.9 and "max_cosine 0.9 for 10 steps" in told
    assert "stopped at step 14," in told and "checkpoint-4, is kept" in told  # the last that did not look collapsed


def test_vectors_that_look_alike_from_the_start_are_no_collapse(tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    run_recipe(_recipe(tiny_llava, data, tmp_path / "run", max_cosine=0.01, steps=20))


@pytest.mark.slow
def test_the_warm_up_is_not_judged(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _collapsing(monkeypatch, after=1)
    keys = {"steps": 20, "max_cosine": 0.9}
    run_recipe(_recipe(tiny_llava, data, tmp_path / "run", **keys, warmup=0.8))  # 16 of warm-up, 4 more
    _collapsing(monkeypatch, after=1)
    assert "stopped at step 16," in _stopped(_recipe(tiny_llava, data, tmp_path / "two", **keys, warmup=0.3))
