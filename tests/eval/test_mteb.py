"""MTEB runs our embedder on composed retrieval, and its scores are those of a plain ranking of the same vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import PromptType
from PIL import Image

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.eval.mteb_model import MTEBModel
from mllm_embed.inputs.prompts import PromptSet
from mllm_embed.model.lora import LoraSpec, add_lora

COUNT = 8


class Halves(AbsTaskRetrieval):
    """The data of tests/tiny.py: picture and instruction ask for another picture."""

    metadata = TaskMetadata(
        name="Halves",
        description="Pictures of two halves.",
        dataset={"path": "none/none", "revision": "1"},
        type="Any2AnyRetrieval",
        category="it2i",
        modalities=["text", "image"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        prompt={"query": "Find the picture."},
    )
    folder: Path

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        pictures = [Image.open(self.folder / f"images/{n}.png") for n in range(COUNT)]
        ids = [str(n) for n in range(COUNT)]
        corpus = {"id": ids, "image": pictures, "modality": ["image"] * COUNT}
        queries = {
            "id": [f"q{n}" for n in ids],
            "image": pictures,
            "text": _words(),
            "modality": ["text,image"] * COUNT,
        }
        features = datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()})
        text = {"text": datasets.Value("string"), "modality": datasets.Value("string")}
        split = {
            "corpus": datasets.Dataset.from_dict(
                corpus, features=datasets.Features({**features, "modality": text["modality"]})
            ),
            "queries": datasets.Dataset.from_dict(queries, features=datasets.Features({**features, **text})),
            "relevant_docs": {f"q{n}": {str(target): 1 for target in _targets(n)} for n in range(COUNT)},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def _words() -> list[str]:
    return [f"make it like number {n + 1}" for n in range(COUNT)]


def _targets(query: int) -> list[int]:
    return [(query + 1) % COUNT, (query + 3) % COUNT]


@pytest.fixture
def task(data: Path) -> Halves:
    task = Halves()
    task.folder = data
    return task


@pytest.fixture
def tuned(saved_models: dict[str, Path]) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(saved_models["merged"], dtype="float32", device="cpu")


def _slow_scores(queries: np.ndarray, gallery: np.ndarray) -> dict[str, float]:
    recall, gain = [], []
    for number, query in enumerate(queries):
        ranked = sorted(range(COUNT), key=lambda at: -float(gallery[at] @ query))
        right = [at in _targets(number) for at in ranked]
        recall.append(sum(right[:1]) / 2)
        found = sum(1 / np.log2(rank + 2) for rank in range(COUNT) if right[rank])
        gain.append(found / (1 / np.log2(2) + 1 / np.log2(3)))
    return {"recall_at_1": float(np.mean(recall)), "ndcg_at_10": float(np.mean(gain))}


def test_scores_are_those_of_a_plain_ranking(tuned: MLLMEmbedder, task: Halves, data: Path) -> None:
    model = MTEBModel(tuned)
    result = mteb.evaluate(model, task, cache=None, encode_kwargs={"batch_size": 3}, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    paths = [data / f"images/{n}.png" for n in range(COUNT)]
    gallery = tuned.encode_document(paths)
    queries = tuned.encode_query([Query(path, words) for path, words in zip(paths, _words(), strict=True)])
    expected = _slow_scores(queries, gallery)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    for part in (tuned.encode(paths), tuned.encode(_words())):  # either half of the query alone scores otherwise
        assert _slow_scores(part, gallery)["ndcg_at_10"] != pytest.approx(scores["ndcg_at_10"], abs=1e-4)


def _encode(model: MTEBModel, batches: list[dict[str, Any]], prompt_type: PromptType | None, **options: Any) -> Any:
    about = SimpleNamespace(name="Task", prompt=options.pop("prompt", None))
    return model.encode(
        batches, task_metadata=about, hf_split="test", hf_subset="default", prompt_type=prompt_type, **options
    )


def test_queries_and_documents_of_every_kind(tuned: MLLMEmbedder, data: Path) -> None:
    picture, model = Image.open(data / "images/0.png"), MTEBModel(tuned)
    batches = [{"image": [picture, picture, None], "text": ["in red", " ", "a hat"]}, {"text": ["one"]}]
    found = _encode(model, batches, PromptType.query)
    asked = [Query(picture, "in red"), Query(picture), Query(instruction="a hat"), Query(instruction="one")]
    np.testing.assert_allclose(found, tuned.encode(asked), atol=1e-6)
    documents = [{"image": [picture]}, {"text": ["a hat"]}]
    expected = tuned.encode([Document(image=picture), Document(text="a hat")])
    for kind in (PromptType.document, None):
        np.testing.assert_allclose(_encode(model, documents, kind), expected, atol=1e-6)
    np.testing.assert_allclose(model.similarity(found, expected).numpy(), found @ expected.T, atol=1e-6)
    np.testing.assert_allclose(model.similarity_pairwise(found[:2], expected), (found[:2] * expected).sum(1), atol=1e-6)


def test_instructions_of_mteb_are_the_models_task_where_it_is_asked_for(tuned: MLLMEmbedder, data: Path) -> None:
    taking = PromptSet("taking", "{task}Describe:", "{task}{instruction}", "{task}{text}", task_form="{task}\n")
    embedder, picture = tuned.with_prompts(taking), Image.open(data / "images/0.png")
    model, batches = MTEBModel(embedder, instructions=True), [{"image": [picture], "text": ["in red"]}]
    told = embedder.encode([Query(picture, "in red", task="Find the picture.")])
    plain = embedder.encode([Query(picture, "in red")])
    both = {"query": "Find the picture.", "document": "A picture."}
    for prompt in (both, "Find the picture."):
        np.testing.assert_allclose(_encode(model, batches, PromptType.query, prompt=prompt), told, atol=1e-6)
        found = _encode(MTEBModel(embedder), batches, PromptType.query, prompt=prompt)
        np.testing.assert_allclose(found, plain, atol=1e-6)
    assert np.abs(told - plain).max() > 1e-3
    gallery = [{"image": [picture]}]
    for prompt, task in ((both, "A picture."), ("Find the picture.", None)):
        expected = embedder.encode([Document(picture, task=task)])
        np.testing.assert_allclose(_encode(model, gallery, PromptType.document, prompt=prompt), expected, atol=1e-6)
    assert model.mteb_model_meta.revision != MTEBModel(embedder).mteb_model_meta.revision
    with pytest.raises(ConfigError, match="'instructcir' have no place for MTEB's instructions"):
        MTEBModel(tuned, instructions=True)


def test_what_cannot_be_embedded_is_named(tuned: MLLMEmbedder) -> None:
    model = MTEBModel(tuned)
    with pytest.raises(DataError, match="task Task has audio, which this model cannot embed"):
        _encode(model, [{"audio": [object()]}], PromptType.query)
    with pytest.raises(DataError, match=r"without words and picture \(id d7\)"):
        _encode(model, [{"id": ["d7"], "text": [""]}], PromptType.document)
    with pytest.raises(ConfigError, match="precision 'int8'"):
        _encode(model, [{"text": ["a"]}], None, precision="int8")


def test_mteb_never_takes_one_model_for_another(tiny_llava: Path, tuned: MLLMEmbedder, task: Halves) -> None:
    """Its results are filed by name and revision, and answered from there."""
    base = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32")
    revisions = {MTEBModel(base).mteb_model_meta.revision, MTEBModel(tuned).mteb_model_meta.revision}
    add_lora(base.model, LoraSpec(rank=4), base.family)
    revisions.add(MTEBModel(base).mteb_model_meta.revision)
    next(p for n, p in base.model.named_parameters() if "lora_B" in n).data += 1
    revisions.add(MTEBModel(base).mteb_model_meta.revision)
    for options in ({"dim": 16}, {"quantization": "nf4"}):
        other = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", **options)
        revisions.add(MTEBModel(other).mteb_model_meta.revision)
    assert len(revisions) == 6
    assert MTEBModel(base).mteb_model_meta.name == f"mllm_embed/{tiny_llava.name}"
    assert MTEBModel(base, "me/shoes", "v1").mteb_model_meta.revision == "v1"


def test_decoded_pictures_are_none_that_jpeg_side_makes_smaller(embedder: MLLMEmbedder) -> None:
    scaled = MLLMEmbedder(embedder.model, embedder.processor, replace(embedder.settings, jpeg_side=32))
    with pytest.raises(
        ConfigError, match="hands pictures over decoded, which jpeg_side 32 .* load the model with jpeg_side=0"
    ):
        MTEBModel(scaled)
