"""A small query encoder learns to find in the vectors of a large one, which stay as they are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import tiny
from mllm_embed import MLLMEmbedder, Query, Searcher
from mllm_embed.cli import main as search_main
from mllm_embed.encode.dual_encoder import DualEncoder
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.eval.cli import main as eval_main
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.training.cli import main
from mllm_embed.training.distill.teacher import Teacher
from mllm_embed.training.loss.losses import distil
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run import stage_run
from mllm_embed.training.run.stages import run_recipe
from mllm_embed.types import as_item


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with shorter vectors than its teacher's."""
    return tiny.make_tiny_llava(tmp_path_factory.mktemp("models") / "small", seed=3, width=32)


@pytest.fixture
def recipe(small: Path, tiny_llava: Path, saved_models: dict[str, Path], data: Path, tmp_path: Path) -> Path:
    values = {
        "model": str(small),
        "teacher": {"model": str(tiny_llava), "adapter": str(saved_models["adapter"])},
        "output": str(tmp_path / "run"),
        "bf16": False,
        "lora": {"rank": 8, "dropout": 0.1},
        "stages": {
            "queries": {
                "data": str(data), "rows": "triplets", "batch_size": 4, "learning_rate": 1e-2, "steps": 60,
                "save_steps": 20, "chunk_tokens": 4096,
                "terms": [{"query": "composed", "positive": "target_image", "taught": True}],
            }
        },
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def asked(data: Path) -> list[Query]:
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    return [Query(image=data / row["image"], instruction=row["instruction"]) for row in rows]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    q, t, c = (torch.nn.functional.normalize(torch.randn(n, 6, dtype=torch.float64), dim=-1) for n in (3, 3, 5))
    positive, tau, total, hits = torch.tensor([1, 4, 0]), 0.2, 0.0, 0
    for i in range(3):
        scores, wanted = ([math.exp(float(v[i] @ one) / tau) for one in c] for v in (q, t))
        own, other = ([s / sum(part) for s in part] for part in (scores, wanted))
        total += 1 - float(q[i] @ t[i]) + sum(p * math.log(p / s) for p, s in zip(other, own, strict=True))
        hits += max(range(5), key=lambda j: scores[j]) == int(positive[i])
    found = distil(q, t, c, positive, tau)
    assert float(found.loss) == pytest.approx(total / 3, abs=1e-12)
    assert float(found.accuracy) == pytest.approx(hits / 3)
    assert float(distil(t, t, c, positive, tau).loss) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_a_student_finds_in_its_teacher_s_gallery(
    recipe: Path, small: Path, tiny_llava: Path, saved_models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    teacher = MLLMEmbedder.from_pretrained(tiny_llava, adapter=saved_models["adapter"], dtype="float32")
    store = ["--model", str(tiny_llava), "--adapter", str(saved_models["adapter"]), "--dtype", "float32"]
    assert search_main(["encode", str(data / "images"), "--output", str(tmp_path / "store"), *store]) == 0
    before = files(tmp_path / "store")
    assert main([str(recipe)]) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < 0.3 * losses[0]
    student = MLLMEmbedder.from_pretrained(small, adapter=tmp_path / "run" / "queries", dtype="float32")
    assert student.dimension == teacher.dimension == 64 and student.model.states_width == 32
    taught, learnt = (embedder.encode(asked(data)) for embedder in (teacher, student))
    untaught = MLLMEmbedder.from_pretrained(small, dtype="float32")
    assert untaught.dimension == 32
    assert (taught * learnt).sum(1).mean() > 0.8
    searcher = Searcher.open(student, tmp_path / "store")
    hits = searcher.search_many(asked(data), k=8)
    wanted = Searcher.open(teacher, tmp_path / "store").search_many(asked(data), k=8)
    same = [{hit.id for hit in one[:3]} & {hit.id for hit in two[:3]} for one, two in zip(hits, wanted, strict=True)]
    assert np.mean([len(both) for both in same]) > 2
    assert files(tmp_path / "store") == before
    with pytest.raises(ConfigError, match="made otherwise"):
        Searcher.open(untaught, tmp_path / "store")
    with pytest.raises(ConfigError, match="made otherwise"):
        DualEncoder(untaught, teacher)
    dual = DualEncoder(student, teacher)
    mixed = dual.encode([data / "images/0.png", asked(data)[0], "a text"])
    assert np.array_equal(mixed[1], student.encode([asked(data)[0]])[0])
    assert np.array_equal(mixed[[0, 2]], teacher.encode([data / "images/0.png", "a text"]))
    for other in (data / "images/0.png", "a text"):
        with pytest.raises(ConfigError, match="its teacher does that"):
            student.encode([asked(data)[0], other])
    with pytest.raises(ConfigError, match="its teacher does that"):  # the picture alone, from which an edit is measured
        searcher.search(asked(data)[0], edit_strength=1.4)
    assert Searcher.open(dual, tmp_path / "store").search(asked(data)[0], edit_strength=1.4)
    shorter = [
        MLLMEmbedder.from_pretrained(model, adapter=adapter, dtype="float32", dim=16)
        for model, adapter in ((small, tmp_path / "run" / "queries"), (tiny_llava, saved_models["adapter"]))
    ]
    assert DualEncoder(*shorter).encode(asked(data)[:1]).shape == (1, 16)
    with pytest.raises(ConfigError, match="dimension: 64, now 16"):
        DualEncoder(shorter[0], teacher)
    other_prompts = dual.with_prompts(PROMPT_SETS["instructcir-legacy"]).with_prompts(PROMPT_SETS["instructcir"])
    assert other_prompts.prompts.name == "instructcir"


@pytest.mark.slow
def test_the_evaluator_asks_with_the_student(
    recipe: Path, small: Path, tiny_llava: Path, saved_models: dict[str, Path], data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    run_recipe(load_recipe(recipe, ["stages.queries.steps=4", f"stages.queries.evaluate={{data: {data}, every: 2}}"]))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    best = max(row["recall@1"] for row in log if "recall@1" in row and row.get("step"))
    teacher = ["--model", str(tiny_llava), "--adapter", str(saved_models["adapter"]), "--dtype", "float32"]
    student = ["--query-model", str(small), "--query-adapter", str(tmp_path / "run" / "queries")]
    run = ["run", str(data), *teacher, "--output", str(tmp_path / "out"), "--sheet", "0"]
    assert eval_main([*run, *student]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["query adapter"] == student[-1]
    assert result["tasks"][""]["rows"]["composed"]["R@1"]["percent"] == pytest.approx(100 * best, abs=1e-6)
    assert eval_main([*run, "--query-model", str(small)]) == 2
    assert "made otherwise" in capsys.readouterr().err
    assert eval_main([*run, *student[2:]]) == 2
    assert "--query-adapter needs --query-model" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stopped_distillation_ends_like_an_unstopped_one(
    recipe: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ["stages.queries.steps=6", "stages.queries.save_steps=2"]
    run_recipe(load_recipe(recipe, [*short, f"output={tmp_path / 'whole'}"]))
    stopped = load_recipe(recipe, [*short, f"output={tmp_path / 'stopped'}"])
    save = stage_run.ContrastiveTrainer._save_checkpoint

    def stop(self, *given) -> None:
        save(self, *given)
        if self.state.global_step == 4:
            raise ModelError("stopped here")

    with monkeypatch.context() as patched:
        patched.setattr(stage_run.ContrastiveTrainer, "_save_checkpoint", stop)
        with pytest.raises(ModelError, match="stopped here"):
            run_recipe(stopped)
    with monkeypatch.context() as patched:
        patched.setattr(Teacher, "fingerprint", "another")
        with pytest.raises(ConfigError, match=r"has changed since \(teacher\)"):
            run_recipe(stopped)
    run_recipe(stopped)
    for file in ("adapter_model.safetensors", "projection/model.safetensors"):
        one, two = (load_file(tmp_path / run / "queries" / file) for run in ("whole", "stopped"))
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_projection_travels_in_every_form(
    recipe: Path, small: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    assert main([str(recipe), "--override", "stages.queries.steps=2"]) == 0
    student = MLLMEmbedder.from_pretrained(small, adapter=tmp_path / "run" / "queries", dtype="float32")
    vectors = student.encode(asked(data)[:2])
    student.save_pretrained(tmp_path / "merged", merge=True)
    merged = MLLMEmbedder.from_pretrained(tmp_path / "merged", dtype="float32")
    assert merged.encode(asked(data)[:2]) == pytest.approx(vectors, abs=1e-5)
    assert merged.target_space == student.target_space and merged.dimension == 64
    theirs = SentenceTransformer(str(tmp_path / "merged"), device="cpu", local_files_only=True)
    found = theirs.encode(["a red hat", str(data / "images/0.png")])
    with torch.no_grad():
        items = [as_item("a red hat"), as_item(data / "images/0.png")]
        wanted = np.concatenate([merged.model(**merged.item_processor([item])).numpy() for item in items])
    assert found == pytest.approx(wanted, abs=1e-5)
    theirs.save(str(tmp_path / "again"))
    again = MLLMEmbedder.from_pretrained(tmp_path / "again", dtype="float32")
    assert again.encode(asked(data)[:2]) == pytest.approx(vectors, abs=1e-5)
    (tmp_path / "merged" / "projection" / "model.safetensors").write_bytes(b"spoilt")
    with pytest.raises(ModelError, match="projection is damaged"):
        MLLMEmbedder.from_pretrained(tmp_path / "merged")


def test_query_encoders_are_not_added(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(recipe), "--override", "stages.queries.steps=2"]) == 0
    adapter = str(tmp_path / "run" / "queries")
    assert main(["merge", adapter, adapter, "--output", str(tmp_path / "sum")]) == 2
    assert "distilled query encoder" in capsys.readouterr().err


TERM = "query: composed, positive: target_image"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher=null", "needs a teacher"),
        (f"stages.queries.terms=[{{{TERM}}}]", "with a teacher every term is taught"),
        (f"stages.queries.terms=[{{{TERM}, taught: true, symmetric: true}}]", "has one query"),
        (f"stages.queries.terms=[{{{TERM}, taught: true, bank: true}}]", "no bank"),
        ("stages.queries.terms=[{query: query_image, positive: target_image, taught: true}]", "query: composed"),
        ("stages.queries.hardness=9", "take no learn_temperature, mask_margin, hardness or guide"),
        ("teacher.model=nowhere/at/all", "nowhere/at/all"),
    ],
)
def test_recipes_that_cannot_be_are_refused(
    recipe: Path, override: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main([str(recipe), "--override", override]) == 2
    assert message in capsys.readouterr().err
