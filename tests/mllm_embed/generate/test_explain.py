"""Vectors read as words: the model's own head on the state that the vector is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from mllm_embed import MLLMEmbedder, Query
from mllm_embed.cli import main
from mllm_embed.generate.explain import Explainer, shared


def test_words_are_weighed_by_the_head_on_the_pooled_state(
    embedder: MLLMEmbedder, tiny_llava: Path, data: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    picture = data / "images" / "1.png"
    query = Query(image=picture, instruction="make it blue")
    (reading,) = Explainer(embedder).read([query], k=3)
    batch = embedder.item_processor([query])
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava, dtype="float32").eval()
    with torch.no_grad():
        weights = torch.log1p(torch.relu(model(**batch).logits[0, -1]))
    tokenizer = embedder.processor.tokenizer
    known = {at: tokenizer.convert_ids_to_tokens(at) for at in range(len(tokenizer))}
    words = {token[1:]: float(weights[at]) for at, token in known.items() if token[0] == "Ġ" and token[1:].isalpha()}
    best = sorted(words.items(), key=lambda word: -word[1])[:3]
    assert [word for word, _ in reading] == [word for word, _ in best]
    assert [weight for _, weight in reading] == pytest.approx([weight for _, weight in best], abs=1e-4)


def test_shared_words_carry_the_smaller_weight() -> None:
    query, answer = [("red", 2.0), ("shoe", 1.5), ("sole", 0.2)], [("shoe", 3.0), ("red", 0.5), ("lace", 0.4)]
    assert shared(query, answer) == [("shoe", 1.5), ("red", 0.5)]


def test_search_explains_its_answers(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    arguments = ["--gallery", str(data / "images"), "--image", str(picture), "--output", str(tmp_path / "out.png")]
    assert main(["search", "--model", str(tiny_llava), *arguments, "-k", "2", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("query  "))
    asked = lines[at].removeprefix("query  ").split(", ")
    for line in lines[at + 1 : at + 3]:
        both, own = (part.strip().split(", ") for part in line[7:].split("|"))
        assert set(filter(None, both)) <= set(asked) and not set(filter(None, own)) & set(asked)
