"""`plan` of a re-ranker's recipe: its counts are exact, and its memory is that of real steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import families
from mllm_embed import Document, Query, Reranker
from mllm_embed.errors import ConfigError, DataError, ModelError
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.model.prefix_cache import SharedBatch
from mllm_embed.rerank.shared_lists import Sharing
from mllm_embed.training.batch.examples import Reader
from mllm_embed.training.batch.stage_data import open_stage
from mllm_embed.training.cli import main
from mllm_embed.training.distributed.memory_tracker import MemoryTracker
from mllm_embed.training.plan.model import SHAPES
from mllm_embed.training.plan.plan import describe, make_plan
from mllm_embed.training.plan.samples import WORDS
from mllm_embed.training.recipe.recipe_files import load_any
from mllm_embed.training.recipe.reranker.recipe import RerankRecipe
from mllm_embed.training.reranking.batch import RerankCollator
from mllm_embed.training.reranking.chunks import forwards
from mllm_embed.training.reranking.scorer import BatchScorer
from rerank_recipe import PROMPT, write_recipe

BASE = Path(__file__).resolve().parents[3] / "scripts/assets/base"
OWN = {**PROMPT, "words": "Look well. {query}\n{candidate}\nIs it?"}
LONGER = {**OWN, "words": "Look very well, my friend! " + OWN["words"] + "!" * 3}


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> Callable[..., Path]:
    """A re-ranker's recipe of one stage, some of its keys as given; one of the rows brings two hard negatives."""
    rows = _rows(data)
    rows[2]["negative_image"] = [rows[0]["image"], rows[0]["target_image"]]
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def written(**keys: Any) -> Path:
        stage = {
            "data": str(data), "negatives": ["query_image", "hard_negative"], "candidates": 5, "batch_size": 4,
            "epochs": 3, "terms": [{"form": "softmax"}],
        }  # fmt: skip
        return write_recipe(tmp_path, tiny_llava, stage | keys)

    return written


def _rows(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]


def _query(data: Path, row: dict[str, Any]) -> Query:
    return Query(data / row["image"], row["instruction"])


@pytest.mark.usefixtures("uncounted")
def test_its_counts_are_those_of_what_is_trained(recipe: Callable[..., Path], tiny_llava: Path, data: Path) -> None:
    loaded = load_any(recipe())
    plan = make_plan(loaded)
    reranker = Reranker.from_pretrained(tiny_llava, prompt=PROMPT, dtype="float32", device="cpu")
    model = reranker.model.model
    before = sum(p.numel() for p in model.parameters())
    add_lora(model, loaded.lora.spec(), model.family)
    assert plan.counts.base == before
    assert plan.counts.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    stage = plan.stages["rerank"]
    pairs = [(_query(data, row), Document(data / row["target_image"])) for row in _rows(data)]
    longest = max(reranker.pairs.batch([pair])["input_ids"].shape[1] for pair in pairs)
    assert [(one.kind, one.count, one.length, one.image_tokens) for one in stage.inputs] == [
        ("composed with a candidate", 4 * 4, longest, 2 * 16)  # the answer, the query's own picture, and two
    ]
    assert stage.steps == 6  # 3 epochs of 8 // 4
    assert "counted with whole prompts" in describe(loaded, plan)
    whole = load_any(recipe(), ["gradient_checkpointing=true"])
    assert "counted with whole prompts" not in describe(whole, make_plan(whole))


@pytest.mark.usefixtures("uncounted")
def test_a_list_is_one_prompt(recipe: Callable[..., Path], tiny_llava: Path, data: Path) -> None:
    keys = {"terms": [{"form": "listwise"}, {"form": "pointwise"}], "negatives": ["query_image"], "candidates": 3}
    pairs, lists = make_plan(load_any(recipe(**keys))).stages["rerank"].inputs
    assert (pairs.count, lists.count, lists.kind) == (4 * 2, 4, "composed with 2 candidates")
    reranker = Reranker.from_pretrained(tiny_llava, prompt=PROMPT, dtype="float32", device="cpu")
    listed = [
        (_query(data, row), [Document(data / row[one]) for one in ("target_image", "image")]) for row in _rows(data)
    ]
    assert lists.length == max(reranker.pairs.list_batch([one])["input_ids"].shape[1] for one in listed)
    assert lists.image_tokens == 3 * 16
    longer = {**keys, "candidates": 5}
    with pytest.raises(ConfigError, match=r"candidates 5 are more than the prompt's list.most, 4"):
        make_plan(load_any(recipe(**longer)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["gradient_checkpointing=true"], ["attention=eager"], ["lora.dropout=0.1"]], ids=" ".join
)
def test_memory_is_what_a_real_step_takes(recipe: Callable[..., Path], options: list[str]) -> None:
    """Of prompts that are computed whole within a tenth; of those whose queries are read once it is more, not twice."""
    keys = {"negatives": ["query_image"], "candidates": 2, "chunk_tokens": 100_000}
    loaded = load_any(recipe(**keys), [f"model={BASE}", *options])
    planned = make_plan(loaded).stages["rerank"].step.peak
    assert planned == pytest.approx(_real_peak(loaded, Sharing(False, False)), rel=0.1)
    if not loaded.gradient_checkpointing:
        assert 0.5 * planned < _real_peak(loaded, Sharing(True, True)) < planned


def _real_peak(recipe: RerankRecipe, share: Sharing) -> int:
    """The bytes that live at the worst moment of a step of the longest rows, by the storages that are alive."""
    reranker = Reranker.from_pretrained(BASE, prompt=PROMPT, dtype="float32", device="cpu")
    model, stage = reranker.model.model, recipe.stages["rerank"]
    add_lora(model, recipe.lora.spec(), model.family)
    model.base.set_attn_implementation(recipe.attention)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    scorer = BatchScorer(reranker.model).train()
    for parameter in scorer.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    read = Reader(reranker.pairs.items.prepared, stage.roles)
    examples = sorted(map(read, open_stage(stage)[0].sample()), key=lambda one: -one.roles["composed"][0].tokens)
    collate = RerankCollator(reranker.pairs, stage, share, stage.chunk_tokens, 0)
    batch = collate(examples[: stage.batch_size])["batch"]
    assert not batch.cached and bool(isinstance(batch.pairs[0], SharedBatch)) is share.pictures
    with MemoryTracker() as live:
        margins, _ = scorer(batch)
        margins.sum().backward()
    inputs = chain.from_iterable(map(forwards, batch.pairs))
    return live.peak + sum(one["pixel_values"].nbytes for one in inputs if "pixel_values" in one)


def _bare(model: Path, folder: Path) -> Path:
    """A model of which there is a config alone."""
    return shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors", "tok*", "*proc*"))


@pytest.mark.usefixtures("uncounted")
def test_what_is_not_on_disk_is_planned_by_its_shape(
    recipe: Callable[..., Path], tiny_llava: Path, tmp_path: Path
) -> None:
    """Candidates are pictures of COCO's size, as many as the stage takes of what its negatives can bring."""
    later, bare = str(tmp_path / "later"), f"model={_bare(tiny_llava, tmp_path / 'bare')}"
    loaded = load_any(recipe(data=later), [bare])
    plan = make_plan(loaded, 24)
    [batch] = plan.stages["rerank"].inputs
    assert (batch.count, batch.image_tokens, plan.stages["rerank"].steps) == (4 * 5, 2 * 16, None)
    words = (len(WORDS) + len(PROMPT["words"])) // 3
    assert 2 * 16 + words <= batch.length <= 2 * 16 + 2 * words
    assert "its data is not on disk" in describe(loaded, plan)
    for keys, count in (
        ({"negatives": ["query_image"]}, 2), ({"hard_negatives": 2}, 4), ({"hard_negatives": 2, "candidates": 3}, 3)
    ):  # fmt: skip
        [batch] = make_plan(load_any(recipe(data=later, **keys), [bare]), 24).stages["rerank"].inputs
        assert batch.count == 4 * count
    [short] = make_plan(load_any(recipe(data=later), [bare, "max_tokens=40"]), 24).stages["rerank"].inputs
    assert (short.length, short.image_tokens) == (40, 32)


@pytest.mark.usefixtures("uncounted")
def test_candidates_are_as_many_as_a_stage_takes(recipe: Callable[..., Path]) -> None:
    for keys, count in (({"candidates": 3}, 3), ({"hard_negatives": 1}, 3)):
        [batch] = make_plan(load_any(recipe(**keys))).stages["rerank"].inputs
        assert batch.count == 4 * count


@pytest.mark.usefixtures("uncounted")
def test_the_longest_prompt_is_found_with_all_its_words(
    recipe: Callable[..., Path], tiny_llava: Path, data: Path
) -> None:
    """What a query avoids and its own task stand in its words; one that is too long is as long as may be."""
    path = recipe(negatives=["query_image"])
    words = {**PROMPT, "words": "{task} {query}\n{candidate}\nIs it this one?"}
    rows = _rows(data)
    rows[3] |= {"avoid": "a red wall " * 5}
    rows[5] |= {"task": "Find a picture for this. " * 4}
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = [f"reranker.prompt={json.dumps(words)}"]
    reranker = Reranker.from_pretrained(tiny_llava, prompt=words, dtype="float32", device="cpu")
    queries = [replace(_query(data, row), task=row.get("task"), avoid=row.get("avoid")) for row in rows]
    pairs = [(query, Document(data / row["target_image"])) for query, row in zip(queries, rows, strict=True)]
    lengths = [reranker.pairs.batch([pair])["input_ids"].shape[1] for pair in pairs]
    assert make_plan(load_any(path, keys)).stages["rerank"].inputs[0].length == max(lengths)
    limited = make_plan(load_any(path, [*keys, f"max_tokens={max(lengths) - 1}"])).stages["rerank"].inputs[0]
    assert limited.length == max(lengths) - 1
    assert limited.kind.endswith(f"one over the limit of {max(lengths) - 1} tokens, at which a run stops")
    with pytest.raises(DataError, match="what to change is the query's"):
        make_plan(load_any(recipe(negatives=["composed_text"], candidates=2), keys))


@pytest.mark.usefixtures("uncounted")
def test_pictures_are_as_large_as_any_from_everywhere(recipe: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    """A family that takes any size: its last row alone has large pictures, behind many candidates of the others."""
    model = families.make("qwen3_vl", tmp_path / "qwen")
    rows = _rows(data)
    for row in rows[:-1]:
        row["negative_image"] = [one["image"] for one in rows if one["image"] not in row.values()]
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = [f"model={model}", "attention=eager"]
    [small] = make_plan(load_any(recipe(), whole)).stages["rerank"].inputs
    Image.new("RGB", (320, 320)).save(data / rows[-1]["target_image"])
    [large] = make_plan(load_any(recipe(), whole)).stages["rerank"].inputs
    assert large.image_tokens >= 4 * small.image_tokens


@pytest.fixture(scope="module")
def judge(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A re-ranker with a prompt of its own, as an adapter and whole."""
    folder = tmp_path_factory.mktemp("judge")
    reranker = Reranker.from_pretrained(tiny_llava, prompt=OWN, dtype="float32", device="cpu")
    add_lora(reranker.model.model, LoraSpec(rank=2), reranker.model.model.family)
    reranker.save_pretrained(folder / "adapter")
    reranker.save_pretrained(folder / "whole", merge=True)
    return {name: folder / name for name in ("adapter", "whole")}


@pytest.mark.parametrize("form", ["adapter", "whole", "unseen"])
@pytest.mark.usefixtures("uncounted")
def test_it_is_asked_as_the_re_ranker_that_it_goes_on_from(
    recipe: Callable[..., Path],
    judge: dict[str, Path],
    tiny_llava: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    keys = {"adapter": [f"adapter={judge['adapter']}"], "whole": [f"model={judge['whole']}"]}
    keys["unseen"] = ["model=own/tiny", *keys["adapter"]]
    monkeypatch.setattr("mllm_embed.training.plan.model.SHAPES", shutil.copytree(SHAPES, tmp_path / "shapes"))
    shutil.copy(tiny_llava / "config.json", tmp_path / "shapes/own--tiny.json")
    terms = [{"form": "listwise"}, {"form": "softmax"}]
    overrides = ["reranker.prompt=null", "lora=null", "stages.rerank.candidates=3", *keys[form]]
    plan = make_plan(load_any(recipe(terms=terms), overrides))
    pairs, _ = plan.stages["rerank"].inputs
    reranker = Reranker.from_pretrained(judge["whole"], dtype="float32", device="cpu")
    asked = [(_query(data, row), Document(data / row["target_image"])) for row in _rows(data)]
    lengths = [reranker.pairs.batch([one])["input_ids"].shape[1] for one in asked]
    if form == "unseen":  # by the letter
        own = make_plan(load_any(recipe(terms=terms), [*overrides[1:], f"reranker.prompt={json.dumps(LONGER)}"]))
        assert (
            own.stages["rerank"].inputs[0].length - pairs.length == len(LONGER["words"]) // 3 - len(OWN["words"]) // 3
        )
    else:
        assert pairs.length == max(lengths)
    rank = 16 if form == "whole" else 2  # a new one, or that of the adapter
    one = make_plan(load_any(recipe(), ["lora=null", f"lora.rank={rank}"]))
    assert plan.counts.lora == one.counts.lora


@pytest.mark.usefixtures("uncounted")
def test_an_embedders_adapter_lends_its_weights_and_not_its_pictures(
    recipe: Callable[..., Path], saved_models: dict[str, Path], tmp_path: Path
) -> None:
    own = shutil.copytree(saved_models["adapter"], tmp_path / "own")
    of_pictures = own / "processor_config.json"
    larger = of_pictures.read_text().replace('"height": 32', '"height": 64').replace('"width": 32', '"width": 64')
    assert larger != of_pictures.read_text()
    of_pictures.write_text(larger)
    [plain] = make_plan(load_any(recipe())).stages["rerank"].inputs
    [begun] = make_plan(load_any(recipe(), [f"adapter={own}", "lora=null"])).stages["rerank"].inputs
    assert begun.pixels == plain.pixels
    with pytest.raises(ModelError, match="holds no adapter"):
        make_plan(load_any(recipe(), [f"adapter={tmp_path / 'nowhere'}", "lora=null"]))
    with pytest.raises(ModelError, match="holds an embedder, which was not trained to judge"):
        make_plan(load_any(recipe(), [f"model={saved_models['merged']}"]))


@pytest.mark.usefixtures("uncounted")
def test_the_command_plans_and_refuses(recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(recipe()), "--memory", "24"]) == 0
    assert "16 x composed with a candidate: 32 image tokens" in capsys.readouterr().out
    for keys, message in (
        ({"batch_size": 100}, "fewer than batch_size 100"),
        ({"query_task": "Find it."}, "has no place for the task 'Find it.'"),
        ({"rates": {"vision": 1e-4}}, "rates.vision is given, and the tower is frozen"),
    ):
        assert main(["plan", str(recipe(**keys))]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


@pytest.mark.usefixtures("uncounted")
def test_a_rate_of_what_an_adapter_does_not_train_is_refused_by_plan_and_run(
    recipe: Callable[..., Path], saved_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(negatives=["query_image"], rates={"vision": 1e-4})
    for command in ("plan", "run"):
        assert main([command, str(path), "--override", f"model={saved_models['adapter']}"]) == 2
        assert "rates.vision is given, and the adapter to go on from trains nothing of" in capsys.readouterr().err
