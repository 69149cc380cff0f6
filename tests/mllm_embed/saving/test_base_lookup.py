"""The base of an adapter whose folder, or whose user, is not where training was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_embed import MLLMEmbedder
from mllm_embed.cli import main
from mllm_embed.errors import ModelError
from mllm_embed.model.lora import LoraSpec, add_lora


@pytest.fixture
def project(tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models/base and an adapter of it, trained from that folder."""
    home = tmp_path / "project"
    shutil.copytree(tiny_llava, home / "models/base")
    monkeypatch.chdir(home)
    embedder = MLLMEmbedder.from_pretrained("models/base", dtype="float32", device="cpu")
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    embedder.save_pretrained("runs/adapter")
    return home


def _vectors(adapter: str | Path) -> np.ndarray:
    return MLLMEmbedder.from_pretrained(adapter, dtype="float32", device="cpu").encode(["a hat"])


def test_a_base_is_found_from_anywhere(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _vectors("runs/adapter")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(_vectors(project / "runs/adapter"), expected)
    project.rename(tmp_path / "moved")
    np.testing.assert_array_equal(_vectors("moved/runs/adapter"), expected)
    os.symlink(tmp_path / "moved/runs/adapter", tmp_path / "link")
    np.testing.assert_array_equal(_vectors("link"), expected)
    shutil.copytree("moved/runs/adapter", "beside/adapter")
    shutil.copytree("moved/models/base", "beside/base")
    np.testing.assert_array_equal(_vectors("beside/adapter"), expected)


def test_an_absolute_base_that_moved_is_found_beside_the_adapter(project: Path, tmp_path: Path) -> None:
    expected = _vectors("runs/adapter")
    config = project / "runs/adapter/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "/gone/base"}))
    (project / "models/base").rename(project / "runs/base")
    np.testing.assert_array_equal(_vectors("runs/adapter"), expected)


def test_of_two_folders_of_a_name_that_of_the_right_weights_is_taken(
    project: Path, other_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _vectors("runs/adapter")
    shutil.copytree(other_llava, tmp_path / "elsewhere/models/base")
    monkeypatch.chdir(tmp_path / "elsewhere")
    np.testing.assert_array_equal(_vectors(project / "runs/adapter"), expected)
    shutil.rmtree(project / "models")
    with pytest.raises(ModelError, match="trained on another base than models/base .*--model BASE --adapter"):
        _vectors(project / "runs/adapter")


def test_a_base_that_is_nowhere_has_the_cure_for_both(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(project / "models", tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.new("RGB", (9, 9)).save("photos/a.png")
    command = ["search", "--gallery", "photos", "--instruction", "red", "--model", "project/runs/adapter"]
    assert main(command) == 2
    said = capsys.readouterr().err.strip()
    assert "models/base of project/runs/adapter is not there; give it: --model BASE --adapter" in said
    assert "from_pretrained(BASE, adapter=...)" in said and "Repo id" not in said and "\n" not in said
    MLLMEmbedder.from_pretrained("kept/base", adapter="project/runs/adapter", device="cpu")


def test_a_folder_that_is_both_is_refused(project: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        shutil.copy(project / "models/base" / file, project / "runs/adapter" / file)
    with pytest.raises(ModelError, match="holds both an adapter .* and a whole model"):
        _vectors("runs/adapter")
    shutil.copy("runs/adapter/adapter_config.json", "models/base")
    (project / "runs/adapter/config.json").unlink()
    with pytest.raises(ModelError, match="holds both"):
        MLLMEmbedder.from_pretrained("models/base", adapter="runs/adapter")
