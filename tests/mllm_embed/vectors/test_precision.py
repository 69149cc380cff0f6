"""Shorter and coarser vectors, against the slow obvious way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from mllm_embed import MLLMEmbedder
from mllm_embed.data.sources import open_sources
from mllm_embed.errors import ConfigError
from mllm_embed.search.searcher import Searcher
from mllm_embed.store.extract import encode_sources
from mllm_embed.vectors.precision import to_precision, truncate

TEXTS = ["a red hat", "a blue hat", "one white horse in front of a black door", "orange"]


def test_dim_keeps_the_first_numbers_and_normalises(embedder: MLLMEmbedder) -> None:
    whole, short = embedder.encode(TEXTS), embedder.encode(TEXTS, dim=16)
    for long, cut in zip(whole, short, strict=True):
        expected = long[:16] / np.sqrt(sum(number**2 for number in long[:16]))
        np.testing.assert_allclose(cut, expected, atol=1e-6)
    np.testing.assert_array_equal(embedder.encode(TEXTS, dim=embedder.dimension), whole)


def test_a_model_loaded_with_dim_gives_short_vectors(tiny_llava, embedder: MLLMEmbedder) -> None:
    short = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", dim=16)
    assert short.dimension == 16 and short.encode([]).shape == (0, 16)
    np.testing.assert_array_equal(short.encode(TEXTS), embedder.encode(TEXTS, dim=16))


def test_int8_is_each_vector_on_its_own_scale(embedder: MLLMEmbedder) -> None:
    whole, coarse = embedder.encode(TEXTS), embedder.encode(TEXTS, precision="int8")
    assert coarse.dtype == np.int8 and coarse.shape == whole.shape
    for vector, numbers in zip(whole, coarse, strict=True):
        peak = max(abs(vector))
        assert [round(float(x) * 127 / float(peak)) for x in vector] == numbers.tolist()
    np.testing.assert_array_equal(embedder.encode(TEXTS[1:2], precision="int8")[0], coarse[1])
    found = embedder.similarity(coarse, coarse)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)
    np.testing.assert_allclose(found, embedder.similarity(whole, whole), atol=0.02)


@pytest.mark.parametrize("dim", [64, 20])
def test_binary_is_the_signs_eight_to_a_byte(embedder: MLLMEmbedder, dim: int) -> None:
    whole, bits = (embedder.encode(TEXTS, dim=dim, precision=name) for name in ("float32", "binary"))
    assert bits.dtype == np.uint8 and bits.shape == (len(TEXTS), -(-dim // 8))
    signs = [[int(number > 0) for number in vector] for vector in whole]
    assert [[row[at // 8] >> (7 - at % 8) & 1 for at in range(dim)] for row in bits.tolist()] == signs
    distance = [[sum(x != y for x, y in zip(a, b, strict=True)) for b in signs] for a in signs]
    np.testing.assert_allclose(embedder.similarity(bits, bits), 1 - 2 * np.array(distance) / (8 * bits.shape[1]))


def test_faiss_finds_the_same_binary_neighbours(embedder: MLLMEmbedder) -> None:
    bits = embedder.encode(TEXTS, precision="binary")
    index = faiss.IndexBinaryFlat(embedder.dimension)
    index.add(bits)
    distances, order = index.search(bits, len(TEXTS))
    cosines = np.take_along_axis(embedder.similarity(bits, bits), order, axis=1)
    np.testing.assert_allclose(cosines, 1 - 2 * distances / embedder.dimension, atol=1e-6)


def test_tensors_stay_tensors(embedder: MLLMEmbedder) -> None:
    bits = embedder.encode(TEXTS, precision="binary", convert_to="torch")
    assert bits.dtype == torch.uint8
    assert torch.equal(embedder.similarity(bits, bits).diagonal(), torch.ones(len(TEXTS)))


def test_vectors_of_two_kinds_are_not_compared(embedder: MLLMEmbedder) -> None:
    whole = embedder.encode(TEXTS)
    for other in (embedder.encode(TEXTS, precision="int8"), embedder.encode(TEXTS, dim=16)):
        with pytest.raises(ConfigError, match="one length and precision, not 64 x float32 and"):
            embedder.similarity(whole, other)


def test_what_a_vector_cannot_be_is_refused(tiny_llava, embedder: MLLMEmbedder) -> None:
    for dim in (0, 65, 1.5):
        with pytest.raises(ConfigError, match=f"between 1 and 64, .* not {dim}"):
            embedder.encode(TEXTS, dim=dim)
        with pytest.raises(ConfigError, match=f"between 1 and 64, .* not {dim}"):
            MLLMEmbedder.from_pretrained(tiny_llava, dim=dim)
    with pytest.raises(ConfigError, match="precision 'int4' is not known; use float32, int8, binary"):
        embedder.encode(TEXTS, precision="int4")


def test_a_cut_without_normalising_again_leaves_cosines_as_they_are(embedder: MLLMEmbedder) -> None:
    whole = embedder.encode(TEXTS)
    short, again = truncate(whole, 16, renormalize=False), truncate(whole, 16)
    np.testing.assert_array_equal(short, whole[:, :16])
    assert (np.linalg.norm(short, axis=1) < 0.95).all()
    np.testing.assert_allclose(embedder.similarity(short, again), again @ again.T, atol=1e-6)
    for precision in ("int8", "binary"):
        coarse = [to_precision(vectors, precision) for vectors in (short, again)]
        assert (coarse[0] == coarse[1]).mean() > 0.99  # a number may lie on the edge of two roundings


def test_what_ranks_by_inner_products_refuses_shorter_vectors(tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    model = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", dim=16)
    before = model.provenance
    model.settings = replace(model.settings, renormalize=False)
    assert np.linalg.norm(model.encode(TEXTS), axis=1).max() < 0.95
    assert model.provenance == before | {"settings": before["settings"] | {"renormalize": False}}
    for use in (
        lambda: Searcher.from_folder(model, data),
        lambda: encode_sources(model, open_sources([data / "images"]), tmp_path / "store", show_progress=False),
    ):
        with pytest.raises(ConfigError, match="ranks by inner products.*renormalize: true, which changes no cosine"):
            use()
    assert not (tmp_path / "store").exists()
    model.save_pretrained(tmp_path / "saved")
    again = MLLMEmbedder.from_pretrained(tmp_path / "saved", dtype="float32", dim=16)
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))
    whole = MLLMEmbedder.from_pretrained(tmp_path / "saved", dtype="float32")
    assert whole.unit_length and "renormalize" not in whole.provenance["settings"]
