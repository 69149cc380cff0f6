"""The embedded base and the adapters on it: what they hold beside weights, and that other tools read them right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

from mllm_embed import MLLMEmbedder, Query
from mllm_embed.data.trained_on import TRAINED_ON

ROOT = Path(__file__).resolve().parents[2]
ADAPTERS = sorted(path.relative_to(ROOT) for path in (ROOT / "scripts/assets/adapters").iterdir())


@pytest.fixture
def clone(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    return ROOT


@pytest.mark.parametrize("place", [Path("scripts/assets/base"), *ADAPTERS], ids=str)
def test_sentence_transformers_gives_our_vectors(clone: Path, place: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    with Image.open(clone / "scripts/assets/sprites/apple.webp") as sprite:
        sprite.convert("RGB").save(picture)
    embedder = MLLMEmbedder.from_pretrained(str(place), dtype="float32", device="cpu")
    theirs = SentenceTransformer(str(place), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"})
    given = [["a red hat"], [str(picture)], [{"image": str(picture), "text": "put everything on snow"}]]
    found = np.concatenate([theirs.encode(one) for one in given])
    expected = embedder.encode(["a red hat", picture, Query(picture, "put everything on snow")])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("place", ADAPTERS, ids=str)
def test_an_adapter_is_as_this_version_saves_it(clone: Path, place: Path, tmp_path: Path) -> None:
    """Where it is not: python scripts/toy/save_again.py."""
    embedder = MLLMEmbedder.from_pretrained(str(place), dtype="float32", device="cpu")
    embedder.save_pretrained(tmp_path / "again", card={"license": "apache-2.0"})
    files = (path for path in place.rglob("*") if path.is_file())
    names = sorted(path.relative_to(place) for path in files if path.name != TRAINED_ON)  # which training alone writes
    assert names == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    for name in set(names) - {Path("README.md"), Path("tokenizer_config.json")}:  # written into; says whether offline
        assert (tmp_path / "again" / name).read_bytes() == (place / name).read_bytes(), name


def test_the_base_stays_one_that_can_speak(clone: Path) -> None:
    values = json.loads((clone / "scripts/assets/base/sentence_bert_config.json").read_text())
    assert set(values["processing_kwargs"]["chat_template"]["mllm_embed"]) == {"prompts"}
    assert not (clone / "scripts/assets/base/mllm_embed.json").exists()
