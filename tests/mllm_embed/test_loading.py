"""What a saved processor leaves to those who load it elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import families
import pytest

from mllm_embed.loading import load_processor


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
