"""What is loaded, what is refused, and what a saved processor leaves to those who load it elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import families
from mllm_embed import MLLMEmbedder
from mllm_embed.errors import DataError, ModelError
from mllm_embed.model.processor_loading import load_processor


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.make("qwen2_vl", tmp_path_factory.mktemp("families") / "qwen2_vl")


@pytest.mark.parametrize("file", ["video_preprocessor_config.json", "processor_config.json"])
def test_video_settings_are_kept(qwen: Path, tmp_path: Path, file: str) -> None:
    """They are never used here, but AutoProcessor wants them where torchvision is installed."""
    settings = {"video_processor_type": "Qwen2VLVideoProcessor", "fps": 3}
    path, other = qwen / file, qwen / "video_preprocessor_config.json"
    before = path.read_text()
    other.unlink()
    path.write_text(json.dumps({**json.loads(before), "video_processor": settings} if path != other else settings))
    try:
        load_processor(str(qwen)).save_pretrained(tmp_path)
    finally:
        other.write_text('{"video_processor_type": "Qwen2VLVideoProcessor"}')
        path.write_text(before)
    assert json.loads((tmp_path / "video_preprocessor_config.json").read_text()) == settings
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["processor_class"] == "Qwen2VLProcessor"


def test_a_family_that_reads_videos_is_named_even_without_settings(qwen: Path, tmp_path: Path) -> None:
    load_processor(str(qwen)).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert saved == {"video_processor_type": "Qwen2VLVideoProcessor"}


def test_pickled_weights_are_not_opened(tiny_llava: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "pickled"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.safetensors"):
        MLLMEmbedder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[1]"),
        ("config.json", '{"model_type": 3}'),
        ("config.json", '{"model_type": "llava", "dtype": "floaty"}'),
        ("processor_config.json", "[]"),
        ("tokenizer.json", "[]"),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_damaged_settings_of_a_model_are_one_sentence(
    tiny_llava: Path, tmp_path: Path, file: str, content: str
) -> None:
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "damaged"))
    (folder / file).write_text(content)
    with pytest.raises(ModelError, match="damaged") as caught:
        MLLMEmbedder.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_picture_that_the_processor_refuses_is_named(qwen: Path, tmp_path: Path) -> None:
    Image.new("RGB", (3000, 10)).save(tmp_path / "thin.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
    with pytest.raises(DataError, match=r"thin\.png cannot be read by this model: absolute aspect ratio"):
        MLLMEmbedder.from_pretrained(qwen).encode([tmp_path / "good.png", tmp_path / "thin.png"])
