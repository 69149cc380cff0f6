"""Validation while training: the numbers of an evaluation afterwards, without a trace in the training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mllm_embed import MLLMEmbedder
from mllm_embed.data.folder import open_benchmark
from mllm_embed.errors import DataError
from mllm_embed.eval.cli import main as eval_main
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run import validation
from mllm_embed.training.run.stages import run_recipe

KEYS = ("recall@1", "recall@5", "recall@10")


def _recipe(model: Path, data: Path, output: Path, evaluate: int | None = None, **keys: object) -> Recipe:
    term = {"query": "image", "positive": "caption", "symmetric": True}
    stage = {"data": data, "rows": "pairs", "batch_size": 4, "steps": 6, "save_steps": 2, "learning_rate": 1e-2}
    stage |= {"terms": [term], **({"evaluate": {"data": data, "every": evaluate}} if evaluate else {})}
    lora = {"rank": 4, "dropout": 0.1}
    return Recipe(model=str(model), output=output, lora=lora, stages={"captions": stage}, **{"bf16": False} | keys)


def _found(run: Path) -> list[tuple[object, ...]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(row["stage"], row["step"], *(row[key] for key in KEYS)) for row in rows if "recall@1" in row]


def _scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    told: Iterator[float] = iter(values)
    monkeypatch.setattr(validation, "validate", lambda *_: dict.fromkeys(KEYS, next(told)))


def test_the_figures_are_those_of_an_evaluation_of_the_adapter(tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    adapter = run_recipe(_recipe(tiny_llava, data, tmp_path / "run", evaluate=4))
    assert [row[:2] for row in _found(tmp_path / "run")] == [("captions", step) for step in (0, 4, 6)]
    best = json.loads((tmp_path / "run/checkpoints/captions/best/validation.json").read_text())
    out = tmp_path / "eval"
    assert eval_main(["run", str(data), "--model", str(adapter), "--output", str(out), "--sheet", "0"]) == 0
    figures = json.loads((out / "result.json").read_text())["tasks"][""]["rows"]["composed"]
    assert [100 * best[f"recall@{k}"] for k in (1, 5, 10)] == [figures[f"R@{k}"]["percent"] for k in (1, 5, 10)]
    assert ("captions", best["step"], *(best[key] for key in KEYS)) in _found(tmp_path / "run")


@pytest.mark.slow
def test_validating_leaves_no_trace_in_the_training(tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    run_recipe(_recipe(tiny_llava, data, tmp_path / "with", evaluate=1))
    run_recipe(_recipe(tiny_llava, data, tmp_path / "without"))
    last = "checkpoints/captions/checkpoint-6/trainable.safetensors"
    seen, blind = load_file(tmp_path / "with" / last), load_file(tmp_path / "without" / last)
    assert all(torch.equal(seen[name], blind[name]) for name in blind)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [0, 5])
def test_a_stopped_run_validates_like_an_unstopped_one(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole, again = (_recipe(tiny_llava, data, tmp_path / name, evaluate=1) for name in ("whole", "again"))
    run_recipe(whole)
    real = trainer_module.ContrastiveTrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == stop:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(again)
    run_recipe(again)
    assert _found(again.output) == _found(whole.output) and len(_found(whole.output)) == 7
    one, two = (load_file(run.output / "captions/adapter_model.safetensors") for run in (whole, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_best_weights_become_the_stage_and_start_the_next(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = _recipe(tiny_llava, data, tmp_path / "run", evaluate=2)
    later = recipe.stages["captions"].model_copy(update={"evaluate": None, "learning_rate": 1e-12, "steps": 1})
    recipe = recipe.model_copy(update={"stages": {**recipe.stages, "later": later}})
    _scripted(monkeypatch, [0.9, 0.1, 0.5, 0.5])  # before the first step, which is no candidate, and at 2, 4 and 6
    run_recipe(recipe)
    home = tmp_path / "run/checkpoints/captions"
    best, last = (load_file(home / name / "trainable.safetensors") for name in ("best", "checkpoint-6"))
    four = load_file(home / "checkpoint-4/trainable.safetensors")
    assert all(torch.equal(best[name], four[name]) for name in four)
    assert any(not torch.equal(best[name], last[name]) for name in last)
    saved = [load_file(tmp_path / "run" / stage / "adapter_model.safetensors") for stage in ("captions", "later")]
    values = sorted(float(tensor.sum()) for name, tensor in best.items() if "lora" in name)
    assert sorted(float(tensor.sum()) for name, tensor in saved[0].items() if "lora" in name) == values
    assert all(torch.allclose(saved[1][name], saved[0][name], atol=1e-8) for name in saved[0])
    assert "keeps the weights of step 4, whose recall@1 on halves was best: 0.5000" in capsys.readouterr().out
    assert "| kept | step 4, whose recall@1 on halves" in (tmp_path / "run/later/README.md").read_text()


def test_a_bfloat16_base_is_validated_as_it_trains(
    bf16_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    run_recipe(_recipe(bf16_llava, data, tmp_path / "run", evaluate=6, bf16=True))
    assert len(_found(tmp_path / "run")) == 2


def test_exclusions_and_several_targets_count_as_in_a_full_sort(embedder: MLLMEmbedder, data: Path) -> None:
    path = data / "benchmark.json"
    content = json.loads(path.read_text())
    for number, query in enumerate(content["queries"]):
        query["targets"] = query["targets"] + [str((number + 4) % 8)]
    path.write_text(json.dumps(content))
    benchmark = open_benchmark(data)
    embedder.model.train()
    before = torch.random.get_rng_state()
    found = validation.validate(embedder, benchmark)
    assert torch.equal(torch.random.get_rng_state(), before) and embedder.model.training
    gallery = embedder.encode([item.image for item in benchmark.gallery])
    hits = 0
    for query in benchmark.queries:
        (asked,) = embedder.encode([{"image": query.image, "instruction": query.instruction}])
        order = sorted((-float(v @ asked), int(i.id)) for v, i in zip(gallery, benchmark.gallery, strict=True))
        allowed = [str(number) for _, number in order if str(number) not in query.exclude]
        hits += allowed[0] in query.targets
    assert found["recall@1"] == hits / 8 and found["recall@10"] == 1.0


def test_a_folder_without_a_benchmark_is_named_before_anything_is_loaded(data: Path, tmp_path: Path) -> None:
    (data / "benchmark.json").unlink()
    with pytest.raises(DataError, match="no benchmark.json with queries: evaluate.data needs one"):
        run_recipe(_recipe(tmp_path / "no model", data, tmp_path / "run", evaluate=2))
    assert not (tmp_path / "run").exists()
