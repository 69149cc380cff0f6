"""Lexical vectors: the model's own head on the last tokens of an input; dense vectors stay what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.model.heads.lexical_head import Lexical, LexicalHead, LexicalHeadSpec
from mllm_embed.saving.provenance import LEXICAL, SPACE_FIELDS, check_same

WORDS = 9


def inputs(data: Path) -> list:
    """Return two queries on one picture, which share its prefix, others, and one twice."""
    one, two = data / "images" / "1.png", data / "images" / "2.png"
    return [Query(one, "make it blue"), Query(one, "red"), Document(two), "green and white", Document(two)]


def alone(embedder: MLLMEmbedder, whole: torch.nn.Module, item: object, added: LexicalHead | None) -> np.ndarray:
    """The slow twin: one input through the generating model, word by word."""
    with torch.no_grad():
        out = whole(**embedder.item_processor([item]), output_hidden_states=True)
        logits = out.logits[0, -4:].double()
        if added is not None:
            states = out.hidden_states[-1][0, -4:].double()
            change = states @ added.down.weight.double().T @ added.up.weight.double().T
            logits = logits + change @ whole.get_output_embeddings().weight.double().T + added.bias.double()
    weights = [float(np.log1p(max(0.0, float(column.max())))) for column in logits.T]
    heaviest = sorted(range(len(weights)), key=lambda word: -weights[word])[:WORDS]
    kept = np.array([weight if word in heaviest else 0.0 for word, weight in enumerate(weights)])
    return kept / np.linalg.norm(kept)


@pytest.mark.parametrize("trained", [False, True])
def test_a_word_weighs_what_the_head_gives_it_at_the_last_tokens(
    embedder: MLLMEmbedder, tiny_llava: Path, data: Path, tmp_path: Path, trained: bool
) -> None:
    lexical = embedder.with_lexical(WORDS)
    if trained:
        torch.manual_seed(3)
        head = LexicalHead(LexicalHeadSpec(64, lexical.model.vocabulary, 3)).requires_grad_(False)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        lexical.model.lexical_head = head
        lexical = lexical.with_lexical(0).with_lexical(WORDS)  # whose settings know what is there
        assert lexical.settings.lexical == Lexical(WORDS, rank=3)
    asked = inputs(data)
    dense, found = lexical.encode_both(asked)
    whole = AutoModelForImageTextToText.from_pretrained(tiny_llava, dtype="float32").eval()
    from mllm_embed.types import as_item

    expected = [alone(lexical, whole, as_item(one), lexical.model.lexical_head) for one in asked]
    assert found.dtype == np.float32 and np.diff(found.indptr).max() <= WORDS
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-4)
    np.testing.assert_array_equal(dense, embedder.encode(asked))
    failures: dict[int, str] = {}
    partly = lexical.encode_lexical([asked[0], Document(tmp_path / "none.png")], unreadable=failures)
    np.testing.assert_allclose(partly.toarray(), [expected[0], np.zeros(len(expected[0]))], atol=1e-4)
    assert list(failures) == [1]


def test_the_setting_is_saved_and_told_apart(
    embedder: MLLMEmbedder, tiny_llava: Path, data: Path, tmp_path: Path
) -> None:
    lexical, asked = embedder.with_lexical(WORDS), inputs(data)
    lexical.save_pretrained(tmp_path / "saved")
    again = MLLMEmbedder.from_pretrained(tmp_path / "saved", device="cpu")
    np.testing.assert_allclose(
        again.encode_lexical(asked).toarray(), lexical.encode_lexical(asked).toarray(), atol=1e-5
    )
    assert again.with_prompts(again.prompts).settings.lexical == lexical.settings.lexical
    # dense vectors go together, lexical ones of another setting do not
    check_same(embedder.provenance, lexical.provenance, SPACE_FIELDS, "store")
    with pytest.raises(ConfigError, match="lexical.words: 9, now 5"):
        check_same(lexical.provenance, lexical.with_lexical(5).provenance, (*SPACE_FIELDS, LEXICAL), "store")
    with pytest.raises(ConfigError, match="has no lexical vectors"):
        lexical.with_lexical(0).encode_lexical(asked)
    with pytest.raises(ConfigError, match="a query that avoids something has no lexical vector"):
        lexical.encode_lexical([Query(text="red", avoid="blue")])
    with pytest.raises(ConfigError, match="it thinks first"):
        MLLMEmbedder.from_pretrained(tiny_llava, device="cpu", thoughts=3).with_lexical(WORDS)
    text = (tmp_path / "saved" / "mllm_embed.json").read_text()
    (tmp_path / "saved" / "mllm_embed.json").write_text(text.replace('"rank": 0', '"rank": 3'))
    with pytest.raises(ModelError, match="say a lexical head of rank 3"):
        MLLMEmbedder.from_pretrained(tmp_path / "saved", device="cpu")
