"""Pickled weights become safetensors: the same tensors, nothing run, nothing half written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import released
from mllm_embed import MLLMEmbedder
from mllm_embed.cli import main
from mllm_embed.errors import ModelError


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def _vectors(folder: Path) -> np.ndarray:
    return MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu").encode(["a red hat"])


@pytest.fixture
def pickled(tiny_llava: Path, tmp_path: Path) -> Path:
    """The tiny model with its weights in three pickles."""
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "pickled"))
    released.write_pickles(load_file(folder / "model.safetensors"), folder, 3)
    (folder / "model.safetensors").unlink()
    (folder / "modeling.py").write_text("raise SystemExit('run')\n")
    return folder


@pytest.fixture
def adapter(saved_models: dict[str, Path], tmp_path: Path) -> Path:
    """An adapter in a pickle, with its base's config beside it, as VLM2Vec's has."""
    folder = Path(shutil.copytree(saved_models["adapter"], tmp_path / "adapter"))
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_whole_model(pickled: Path, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in pickled.iterdir()}
    with pytest.raises(ModelError, match=r"are pickled.*`mllm-embed convert weights .*pickled OUTPUT`"):
        MLLMEmbedder.from_pretrained(pickled)
    assert main(["convert", "weights", str(pickled), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "for tensors alone: no code in them was run" in said and "left out modeling.py" in said
    np.testing.assert_array_equal(_vectors(tmp_path / "out"), _vectors(tiny_llava))
    assert {path.name: path.read_bytes() for path in pickled.iterdir()} == before
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 3 and not (tmp_path / "out/modeling.py").exists()


def test_an_adapter(
    adapter: Path, saved_models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=r"`mllm-embed convert adapter .*adapter OUTPUT`") as caught:
        MLLMEmbedder.from_pretrained(adapter)
    assert "\n" not in str(caught.value)
    (tmp_path / "VLM2Vec").mkdir()
    adapter = Path(shutil.move(adapter, tmp_path / "VLM2Vec/VLM2Vec-V2.0"))
    assert main(["convert", "adapter", str(adapter), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "no code in it was run" in said
    assert "with --preset vlm2vec-v2, or where the folder's path ends in VLM2Vec/VLM2Vec-V2.0\n" in said
    np.testing.assert_array_equal(_vectors(tmp_path / "out"), _vectors(saved_models["adapter"]))


def test_a_whole_model_is_no_adapter(pickled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "adapter", str(pickled), str(tmp_path / "out")]) == 2
    assert "adapter_config.json; give the folder of an adapter; a whole model is" in capsys.readouterr().err


def test_tensors_that_share_memory_are_written_each(tiny_llava: Path, pickled: Path, tmp_path: Path) -> None:
    """As torch.save keeps tied weights, slices and views; and the form of before torch 1.6."""
    for old in pickled.glob("pytorch_model*"):
        old.unlink()
    tensors = load_file(tiny_llava / "model.safetensors")
    names = sorted(name for name in tensors if "layernorm" in name)
    row = torch.cat([tensors[name] for name in names])
    parts = dict(zip(names, row.split([len(tensors[name]) for name in names]), strict=True))
    embeddings = tensors["language_model.model.embed_tokens.weight"]
    tied = {
        "language_model.model.embed_tokens.weight": embeddings,
        "language_model.lm_head.weight": embeddings,
        **{name: value.T.contiguous().T for name, value in tensors.items() if name.endswith("linear_1.weight")},
    }
    torch.save(tensors | parts | tied, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert main(["convert", "weights", str(pickled), str(tmp_path / "out")]) == 0
    np.testing.assert_array_equal(_vectors(tmp_path / "out"), _vectors(tiny_llava))


@pytest.mark.parametrize("kind", ["weights", "adapter"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("harm", "no file of tensors alone: reading it would run code"),
        ("model", "no file of tensors alone"),
        ("nested", "holds other things than tensors by name"),
        ("list", "holds other things than tensors by name"),
        ("noise", "cannot be read as a file of torch.save|no file of tensors alone"),
        ("cut", "cannot be read as a file of torch.save"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(
    pickled: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, content: str, said: str
) -> None:
    import re

    folder = pickled if kind == "weights" else adapter
    file = sorted(folder.glob("*.bin"))[-1]
    whole = file.read_bytes()
    made = {
        "harm": {"a": Harm(tmp_path / "harmed")}, "model": torch.nn.Linear(2, 2), "list": [torch.ones(2)],
        "nested": {"state_dict": {"a": torch.ones(2)}},
    }  # fmt: skip
    if content in made:
        torch.save(made[content], file)
    else:
        file.write_bytes(b"\x80noise" * 99 if content == "noise" else whole[: len(whole) // 2])
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["convert", kind, str(folder), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(said, error) and str(file) in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before  # nothing was run, and nothing is half written


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("no index file", "lacks pytorch_model-00002-of-00003.bin, which its index names"),
        ("bad index", "index.json is damaged"),
        ("twice", "which another file of the model holds too"),
        ("safe", "holds safetensors already"),
        ("no config", "has no config.json"),
        ("no weights", "holds no weights"),
        ("full", "holds other files"),
        ("same", "is the folder that is converted"),
        ("nowhere", "is not there; give a folder, or a hub id"),
        ("other names", "write it anew with `mllm-embed convert llave"),
    ],
)
def test_bad_input_is_one_sentence(
    pickled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    output, index = tmp_path / "out", pickled / "pytorch_model.bin.index.json"
    second = pickled / "pytorch_model-00002-of-00003.bin"
    folder = pickled
    if change == "no index file":
        second.unlink()
    elif change == "bad index":
        index.write_text('{"weight_map": {"a": "../b.bin"}}')
    elif change == "twice":
        shutil.copy(second, pickled / "pytorch_model-00003-of-00003.bin")
    elif change == "safe":
        (pickled / "model.safetensors").write_bytes(b"")
    elif change == "no config":
        (pickled / "config.json").unlink()
    elif change == "no weights":
        for path in pickled.glob("pytorch_model*"):
            path.unlink()
    elif change == "full":
        output.mkdir()
        (output / "thesis.txt").write_text("years")
    elif change == "same":
        output = pickled
    elif change == "other names":
        (pickled / "config.json").write_text('{"model_type": "llava_qwen"}')
    else:
        folder = tmp_path / "nowhere"
    assert main(["convert", "weights", str(folder), str(output)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and said in error[0]
    assert not (output / "model.safetensors.index.json").exists()
