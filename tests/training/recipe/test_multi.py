"""A vector a token, trained: in chunks, stopped and resumed, validated by MaxSim as an evaluation does it; refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError, DataError, ModelError
from mllm_embed.eval.cli import main as eval_main
from mllm_embed.training.plan.plan import make_plan
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run import stage_run
from mllm_embed.training.run.stages import run_recipe

TERM = {"query": "composed", "positive": "target_image", "negatives": ["query_image"]}


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> Path:
    values = {
        "model": str(tiny_llava), "output": str(tmp_path / "run"), "bf16": False, "lora": {"rank": 4, "dropout": 0.1},
        "pooling": "multi", "multi": {"width": 8, "tokens": "words"}, "trained_on": False,
        "stages": {
            "queries": {
                "data": str(data), "rows": "triplets", "batch_size": 4, "learning_rate": 1e-2, "steps": 4,
                "save_steps": 2, "chunk_tokens": 60, "terms": [TERM], "evaluate": {"data": str(data), "every": 4},
            }
        },
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def test_a_run_learns_is_resumed_and_measured_by_maxsim(
    recipe: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    with pytest.raises(ConfigError, match=r"multi.tokens: .*words.*, now .*all"):
        run_recipe(load_recipe(recipe, [f"output={tmp_path / 'stopped'}", "multi.tokens=all"]))
    run_recipe(stopped)
    for file in ("adapter_model.safetensors", "projection/model.safetensors"):
        one, two = (load_file(folder / file) for folder in (whole, tmp_path / "stopped/queries"))
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    validated = [line["recall@1"] for line in lines if "recall@1" in line]
    monkeypatch.setattr("mllm_embed.eval.scoring.embedding.multi._SCORES", 20)  # some queries at a time
    out = tmp_path / "eval"
    assert eval_main(["run", str(data), "--model", str(whole), "--output", str(out), "--sheet", "0"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["tasks"][""]["rows"]["composed"]["R@1"]["percent"] == 100 * validated[-1]
    assert {"composed", "image only", "text only", "sum"} == set(result["tasks"][""]["rows"])
    assert "MaxSim" in result["protocol"]["scores"]
    embedder = MLLMEmbedder.from_pretrained(whole, dtype="float32")
    assert embedder.multi and embedder.dimension == 8 and embedder.settings.pooled == "content_words"


def test_what_does_not_go_with_it_is_refused(recipe: Path, data: Path) -> None:
    later = {"data": str(data), "rows": "triplets", "batch_size": 4, "terms": [TERM], "steps": 1}
    later["guide"] = {"adapter": str(load_recipe(recipe).output / "queries")}
    for change, message in (
        (["pooling=mean"], "multi is of vectors a token, and the model pools 'mean'"),
        (["stages.queries.terms.0.frozen=true"], "stages.queries: frozen takes one vector an input"),
        ([f"stages.later={json.dumps(later)}"], "stages.later: guide, a stage of this run, takes one vector"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_recipe(load_recipe(recipe, change))


@pytest.mark.parametrize("where", ["rows", "benchmark", "evaluation"])
def test_what_is_avoided_is_refused_at_the_start(
    recipe: Path, data: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    benchmark = json.loads((data / "benchmark.json").read_text())
    (rows if where == "rows" else benchmark["queries"])[2]["avoid"] = "blue"
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "benchmark.json").write_text(json.dumps(benchmark))
    if where == "evaluation":
        base = load_recipe(recipe).model
        MLLMEmbedder.from_pretrained(base, pooling="multi").save_pretrained(recipe.parent / "multi")
        assert eval_main(["run", str(data), "--model", str(recipe.parent / "multi")]) == 2
        assert "avoids something, which is taken from a single vector" in capsys.readouterr().err
        return
    name = rows[2]["id"] if where == "rows" else benchmark["queries"][2]["id"]
    with pytest.raises(DataError, match=f"{name} of .* avoids something"):
        run_recipe(load_recipe(recipe))
    assert not (recipe.parent / "run").exists()
    if where == "rows":
        with pytest.raises(DataError, match=f"stage 'queries': row {name} of .* avoids something"):
            make_plan(load_recipe(recipe))
