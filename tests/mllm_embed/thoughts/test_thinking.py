"""Queries that think first: the same vectors as prompt, thought and suffix in one pass, and nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

import families
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.cli import main
from mllm_embed.errors import ConfigError
from mllm_embed.generate.thought_cache import ThoughtCache
from mllm_embed.model.processor_loading import load_processor
from mllm_embed.saving.provenance import check_thoughts
from mllm_embed.search.searcher import Searcher

MOST = 6
SUFFIX = "<|end|>\nin one word:"  # the end of a thought, and what the guide says follows


def queries() -> list[Query]:
    words = ("make it blue", "x", "a much longer instruction of many more words")
    return [Query(Image.new("RGB", (32, 32), color), said) for color, said in zip(("red", "blue", "lime"), words)]  # noqa: B905


def alone(whole: Any, processor: Any, query: Query) -> tuple[list[int], np.ndarray]:
    """The slow twin: one query, every token from a pass over all tokens before it by the generating model, without a
    cache; then prompt, thought and suffix as one input."""
    words = f'Modify this image with "{query.instruction}", describe modified image in one word:'
    content = [{"type": "image"}, {"type": "text", "text": words}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    batch = dict(processor(text=text, images=query.image, return_tensors="pt", add_special_tokens=False))
    marks = {*processor.tokenizer.all_special_ids, *processor.tokenizer.added_tokens_decoder}

    def hidden(more: list[int]) -> torch.Tensor:
        given = dict(batch)
        for name, tensor in batch.items():
            if tensor.shape[:2] == batch["input_ids"].shape:
                last = tensor[:, -1:].repeat(1, len(more), *[1] * (tensor.dim() - 2))
                given[name] = torch.cat([tensor, last], 1)
        given["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([more], dtype=torch.long)], 1)
        with torch.inference_mode():
            return whole.model(**given, use_cache=False).last_hidden_state[0, -1]

    thought: list[int] = []
    while len(thought) < MOST:
        with torch.inference_mode():
            token = int(whole.get_output_embeddings()(hidden(thought)).argmax())
        if token in marks:
            break
        thought.append(token)
    after = processor.tokenizer(SUFFIX, add_special_tokens=False)["input_ids"]
    vector = hidden(thought + after)
    return thought, (vector / vector.norm()).numpy()


@pytest.mark.parametrize("family", ["idefics3", "qwen2_vl", "mllama"])
def test_thinking_in_one_pass_gives_what_a_pass_for_each_token_gives(family: str, tmp_path: Path) -> None:
    folder = families.make(family, tmp_path / family)
    embedder = MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu", thoughts=MOST)
    whole, processor = AutoModelForImageTextToText.from_pretrained(folder).eval(), load_processor(str(folder))
    thoughts, vectors = zip(*(alone(whole, processor, query) for query in queries()), strict=True)
    tokenizer = embedder.processor.tokenizer
    assert embedder.think(queries()) == [tokenizer.decode(thought).strip() for thought in thoughts]
    np.testing.assert_allclose(embedder.encode(queries()), vectors, atol=1e-5)
    embedder.thought_cache = {}
    for _ in range(2):  # the second time what was thought is known, and computed in one pass
        np.testing.assert_allclose(embedder.encode(queries()), vectors, atol=1e-5)
    assert sorted(embedder.thought_cache.values()) == sorted(map(tuple, thoughts))
    if family == "idefics3":
        assert len(set(map(len, thoughts))) > 1  # one waits for the others


def test_nothing_but_composed_queries_thinks(embedder: MLLMEmbedder, tiny_llava: Path, data: Path) -> None:
    picture = data / "images" / "0.png"
    others = [Document(picture, "red"), Query(picture), "red", Query(text="red", instruction="blue"), Document(picture)]
    asked = Query(picture, "make it blue")
    thinker = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu", thoughts=4)
    plain = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu", thoughts=0)
    np.testing.assert_array_equal(thinker.encode(others), embedder.encode(others))
    np.testing.assert_array_equal(plain.encode([asked, *others]), embedder.encode([asked, *others]))
    assert np.abs(thinker.encode([asked]) - embedder.encode([asked])).max() > 1e-3
    searcher = Searcher.from_folder(embedder, str(data / "images"))
    assert Searcher(thinker, searcher.gallery).search(asked)  # what is found never thinks
    assert embedder.provenance == plain.provenance != thinker.provenance
    check_thoughts(embedder.provenance, thinker.provenance, others[:1], "store")
    with pytest.raises(ConfigError, match="store holds vectors that were made otherwise .thoughts: null, now"):
        check_thoughts(embedder.provenance, thinker.provenance, [asked], "store")


def test_thoughts_are_saved_with_a_model(saved_models: dict[str, Path], tiny_llava: Path, tmp_path: Path) -> None:
    options = {"dtype": "float32", "device": "cpu"}
    base = MLLMEmbedder.from_pretrained(tiny_llava, **options, thoughts=3)
    thinker = MLLMEmbedder.from_pretrained(saved_models["adapter"], **options, thoughts=3)
    vectors = thinker.encode(queries())
    assert np.abs(vectors - base.encode(queries())).max() > 0.01  # it thinks under its adapter
    thinker.save_pretrained(tmp_path / "adapter")
    thinker.save_pretrained(tmp_path / "whole", merge=True)
    for saved in ("adapter", "whole"):
        again = MLLMEmbedder.from_pretrained(tmp_path / saved, **options)
        np.testing.assert_allclose(again.encode(queries()), vectors, atol=1e-5)
        assert again.think(queries()) == thinker.think(queries())
    assert again.with_prompts(again.prompts).think(queries()) == thinker.think(queries())


def test_what_was_thought_is_read_from_its_file(tiny_llava: Path, tmp_path: Path) -> None:
    def thinker(thoughts: int = 4) -> MLLMEmbedder:
        loaded = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu", thoughts=thoughts)
        loaded.thought_cache = ThoughtCache(tmp_path / "thoughts.jsonl")
        return loaded

    [asked, *others], first = queries(), thinker()
    first.encode([asked])
    row = json.loads((tmp_path / "thoughts.jsonl").read_text())
    other = first.thinking.writer.thought("red")
    (tmp_path / "thoughts.jsonl").write_text(json.dumps(row | {"answer": " ".join(map(str, other))}) + "\n")
    second = thinker()
    assert second.think([asked]) == ["red"]  # what stands there is what was thought
    assert np.abs(second.encode([asked]) - first.encode([asked])).max() > 1e-3
    assert len((tmp_path / "thoughts.jsonl").read_text().splitlines()) == 1
    thinker(5).encode([asked, others[0]])
    assert len((tmp_path / "thoughts.jsonl").read_text().splitlines()) == 3  # shorter thoughts are others


def test_what_cannot_think_says_why(tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def load(**options: object) -> MLLMEmbedder:
        return MLLMEmbedder.from_pretrained(tiny_llava, device="cpu", **options)

    for options, said in (
        ({"thoughts": -1}, "a whole number over 0, not -1"),
        ({"thoughts": 4, "pooling": "mean"}, "it pools 'mean', and a thought goes on to the last token"),
        ({"thoughts": 4, "bidirectional": True}, "its tokens see what comes after them"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(**options)
    with pytest.raises(ConfigError, match="this model does not think first: load it with thoughts=N"):
        load().think(queries())
    command = ["search", "--model", str(tiny_llava), "--gallery", str(tmp_path), "--instruction", "red"]
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    assert main([*command, "--thought-cache", str(tmp_path / "thoughts.jsonl")]) == 2
    assert "--thought-cache needs a model that thinks first" in capsys.readouterr().err
    options = ["--image", str(tmp_path / "red.png"), "--thoughts", "3", "--output", str(tmp_path / "sheet.png")]
    assert main([*command, *options]) == 0
    assert capsys.readouterr().out.startswith("thought: ")


def test_a_thought_that_is_taught_holds_no_mark(tiny_llava: Path) -> None:
    thinker = MLLMEmbedder.from_pretrained(tiny_llava, device="cpu", thoughts=9)
    writer = thinker.thinking.writer
    assert writer.thought("red\n and   green") == writer.thought("red and green")
    assert writer.ends.isdisjoint(writer.thought("<|end|>red<image>"))
    assert len(writer.thought("red " * 20)) == 9
    ended = thinker.with_prompts(replace(thinker.prompts, append="<s>"))  # as published models end their prompts
    plain, row = (
        batch["input_ids"][0].tolist()
        for batch in (ended.item_processor(queries()[:1]), ended.thinking.recalled(queries()[:1], [()]))
    )
    assert row == [*plain[:-1], *writer.suffix, plain[-1]]


def test_a_store_of_queries_takes_none_with_other_thoughts(tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text(
        json.dumps({"id": "a", "image": str(data / "images/0.png"), "instruction": "make it blue"}) + "\n"
    )
    call = ["encode", str(tmp_path / "queries.jsonl"), "--model", str(tiny_llava), "--output", str(tmp_path / "store")]
    assert main([*call, "--thoughts", "4"]) == 0
    assert main([*call, "--thoughts", "4"]) == 0
    assert main([*call, "--thoughts", "0"]) == 2


def test_the_input_of_a_query_leaves_room_for_its_thought(tiny_llava: Path) -> None:
    query = queries()[2]
    thinker = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", thoughts=MOST, max_tokens=70, truncate=True)
    with torch.inference_mode():
        own = thinker.model(**thinker.model_input(query))
    assert own[0].numpy() == pytest.approx(thinker.encode([query])[0], abs=1e-5)
