"""`SentenceTransformer(folder)` on what `save_pretrained` wrote: the same vectors, by its own modules alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util.quantization import quantize_embeddings

from mllm_embed import Document, MLLMEmbedder, PromptSet, Query
from mllm_embed.model.pooling import MULTI, POOLINGS

WORDS = [
    "a red hat",
    'make it "blue"',
    "one",
    " a long text about many coloured things, with {text} and {instruction} ",
]


@pytest.fixture(params=["adapter", "merged"])
def folder(saved_models: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    return saved_models[request.param]


def _load(folder: Path, **options: object) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True, **options)


def _ours(folder: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu")


def _close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_texts_pictures_and_composed_queries_get_the_same_vectors(folder: Path, data: Path) -> None:
    paths = sorted((data / "images").glob("*.png"))
    pictures = [Image.open(path) for path in paths]
    model, embedder = _load(folder), _ours(folder)
    _close(model.encode(WORDS), embedder.encode(WORDS))
    expected = embedder.encode(paths)
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    _close(model.encode_document([str(path) for path in paths], batch_size=3), expected)
    _close(model.encode_document(pictures), expected)
    _close(model.encode([{"image": path} for path in pictures]), expected)
    asked = [Query(path, WORDS[number % 4]) for number, path in enumerate(paths)]
    given = [{"image": picture, "text": WORDS[number % 4]} for number, picture in enumerate(pictures)]
    _close(model.encode_query(given, batch_size=5), embedder.encode_query(asked))
    _close(embedder.encode_query(given), embedder.encode_query(asked))
    turned = [{"text": entry["text"], "image": str(path)} for entry, path in zip(given, paths, strict=True)]
    _close(model.encode(turned), embedder.encode(asked))


def test_transparent_pictures_are_given_opened_and_turned_ones_by_their_path(folder: Path, tmp_path: Path) -> None:
    """As the guide says: the other way round it reads them as no setting of ours can mend."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    model, expected = _load(folder), _ours(folder).encode([tmp_path / "clear.png", tmp_path / "turned.jpg"])
    _close(model.encode([Image.open(tmp_path / "clear.png"), str(tmp_path / "turned.jpg")]), expected)
    swapped = model.encode([str(tmp_path / "clear.png"), Image.open(tmp_path / "turned.jpg")])
    assert ((swapped * expected).sum(1) < 0.99).all()  # once they are alike, the guide need not say so


def test_kinds_may_be_mixed_in_a_batch(folder: Path, data: Path) -> None:
    picture = Image.open(data / "images/0.png")
    mixed = ["a hat", picture, {"image": picture, "text": "in red"}, {"text": "a longer text than the first"}]
    ours = ["a hat", picture, Query(picture, "in red"), "a longer text than the first"]
    _close(_load(folder).encode(mixed), _ours(folder).encode(ours))


def test_a_prompt_goes_before_the_words_or_replaces_ours(folder: Path, data: Path) -> None:
    path, model, embedder = data / "images/0.png", _load(folder), _ours(folder)
    _close(model.encode(["hat"], prompt="a red "), embedder.encode(["a red hat"]))
    _close(model.encode([str(path)], prompt="in red"), embedder.encode([Query(path, "in red")]))
    mine = embedder.with_prompts(PromptSet("mine", embedder.prompts.image, "Do {instruction}!", embedder.prompts.text))
    found = model.encode([{"image": str(path), "text": "this"}], prompt="Do {instruction}!")
    _close(found, mine.encode([Query(path, "this")]))
    assert np.abs(found - embedder.encode([Query(path, "this")])).max() > 0.01


def test_prompts_of_ones_own_travel(tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    mine = PromptSet("mine", image='What "is" it?\n', composed="Now {instruction} €!", text="Word: {text}")
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", prompts=mine)
    embedder.save_pretrained(tmp_path / "out")
    path = data / "images/0.png"
    found = _load(tmp_path / "out").encode(["a hat", str(path), {"image": str(path), "text": "red"}])
    _close(found, embedder.encode(["a hat", path, Query(path, "red")]))


def test_poolings_are_those_of_sentence_transformers() -> None:
    names = {"last": "lasttoken", "first": "cls"}
    hidden, mask = torch.randn(4, 7, 8), torch.ones(4, 7, dtype=torch.long)
    mask[0, :3] = mask[1, 6:] = mask[2, 1:] = 0
    for pooling, pool in ((name, pool) for name, pool in POOLINGS.items() if name not in MULTI):
        theirs = Pooling(8, names.get(pooling, pooling))
        found = theirs({"token_embeddings": hidden, "attention_mask": mask})["sentence_embedding"]
        torch.testing.assert_close(pool(hidden, mask), found, atol=1e-6, rtol=1e-6)


def test_truncated_vectors_are_the_first_numbers(folder: Path) -> None:
    whole = _ours(folder).encode(WORDS)[:, :16]
    _close(_load(folder, truncate_dim=16).encode(WORDS), whole)
    found = _load(folder).encode(WORDS, truncate_dim=16, normalize_embeddings=True)
    _close(found, whole / np.linalg.norm(whole, axis=1, keepdims=True))


def test_similarity_and_precisions(folder: Path) -> None:
    model = _load(folder)
    vectors = model.encode(WORDS)
    _close(model.similarity(vectors, vectors).numpy(), vectors @ vectors.T)
    assert model.encode(WORDS, precision="binary").shape == (4, 8)
    assert model.encode(WORDS, precision="int8").dtype == np.int8
    assert model.get_embedding_dimension() == 64


def test_saved_again_it_still_gives_the_same_vectors_to_both(
    saved_models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    path = data / "images/0.png"
    merged = tmp_path / "mine"
    shutil.copytree(saved_models["merged"], merged)
    settings = json.loads((merged / "mllm_embed.json").read_text())
    settings["prompts"] |= {"name": "mine", "text": "Word: {text}"}
    embedder = _ours(merged).with_prompts(PromptSet(**settings["prompts"]))
    embedder.save_pretrained(merged)
    expected = embedder.encode(["a hat", Query(path, "red")])
    _load(merged).save_pretrained(str(tmp_path / "again"))
    assert not (tmp_path / "again/mllm_embed.json").exists()  # it keeps its own files only
    _close(_load(tmp_path / "again").encode(["a hat", {"image": str(path), "text": "red"}]), expected)
    _close(_ours(tmp_path / "again").encode(["a hat", Query(path, "red")]), expected)
    card = (tmp_path / "again/README.md").read_text()
    assert "composed-image-retrieval" in card and "Word: {text}" in card


def test_what_cannot_be_embedded_is_refused_with_the_reason(saved_models: dict[str, Path], data: Path) -> None:
    model = _load(saved_models["merged"])
    for mark in ("<image>", "<|end|>", "<pad>", "<s>"):
        with pytest.raises(Exception, match=re.escape(f"a token of the model's own, {mark}; take it out")):
            model.encode([f"a {mark} here"])
    with pytest.raises(Exception, match="nothing to embed"):
        model.encode(["  "])


def test_a_model_that_its_template_cannot_serve_refuses(tiny_llava: Path, tmp_path: Path) -> None:
    """A chat template that reads what we cannot foresee must not end in vectors of another prompt."""
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32")
    embedder.processor.chat_template = "{{ 'Odd: ' if mllm_embed }}" + embedder.processor.chat_template
    embedder.save_pretrained(tmp_path / "out")
    with pytest.raises(Exception, match="use mllm_embed"):
        _load(tmp_path / "out").encode(["a hat"])


@pytest.mark.parametrize("option", [{"pooling": "mean"}, {"bidirectional": True}])
def test_a_model_that_pools_or_attends_in_its_own_way_refuses(tiny_llava: Path, tmp_path: Path, option: dict) -> None:
    MLLMEmbedder.from_pretrained(tiny_llava, **option).save_pretrained(tmp_path / "out")
    assert MLLMEmbedder.from_pretrained(tmp_path / "out").settings.to_dict().items() >= option.items()
    assert "is_causal" not in (tmp_path / "out/config.json").read_text()
    with pytest.raises(Exception, match="use mllm_embed"):
        _load(tmp_path / "out").encode(["a hat"])


def test_several_pictures_a_captioned_one_and_two_texts(saved_models: dict[str, Path], data: Path) -> None:
    pictures = [str(data / f"images/{number}.png") for number in (0, 1)]
    ours, theirs = _ours(saved_models["merged"]), _load(saved_models["merged"])
    content = [{"type": "image", "image": name} for name in pictures]
    both = [{"role": "user", "content": [*content, {"type": "text", "text": "side by side"}]}]
    _close(theirs.encode([both]), ours.encode([Query(pictures, "side by side")]))
    document = {"image": pictures[0], "text": "a red and green flag"}
    _close(theirs.encode_document([document]), ours.encode([Document(pictures[0], "a red and green flag")]))
    _close(
        theirs.encode([("a red hat", "make it blue")]),
        ours.encode([Query(text="a red hat", instruction="make it blue")]),
    )


@pytest.mark.slow
def test_our_package_is_not_needed(saved_models: dict[str, Path], tmp_path: Path) -> None:
    """In a process that cannot import it, and without trust_remote_code."""
    code = (
        "import sys; sys.modules['mllm_embed'] = None\n"
        "from sentence_transformers import SentenceTransformer\n"
        f"print(SentenceTransformer({str(saved_models['merged'])!r}, device='cpu').encode(['a hat']).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "(1, 64)", done.stderr


def test_ubinary_is_binary_by_the_name_that_it_has_there(saved_models: dict[str, Path]) -> None:
    embedder = _ours(saved_models["adapter"])
    whole = embedder.encode(WORDS)
    bits = embedder.encode(WORDS, precision="ubinary")
    np.testing.assert_array_equal(bits, embedder.encode(WORDS, precision="binary"))
    np.testing.assert_array_equal(bits, quantize_embeddings(whole, "ubinary"))
    np.testing.assert_array_equal(bits.astype(int) - 128, quantize_embeddings(whole, "binary"))
