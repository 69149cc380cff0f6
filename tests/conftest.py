"""Shared fixtures: a tiny real model and a tiny data folder, made once; no test reaches the network."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
MEMORY = 12 * 2**30  # bytes of address space of a process; the tests take less than 5

import pytest  # noqa: E402
import torch  # noqa: E402

import tiny  # noqa: E402

if sys.platform == "linux" and not torch.cuda.is_available():
    import resource

    # a test that runs away fails with a traceback, and takes neither the machine nor the other tests with it
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


@pytest.fixture(scope="module", autouse=True)
def _imports_are_no_garbage() -> None:
    """Keep what is there by now out of garbage collection: a training run collects a few times, and each look through
    the modules of torch and transformers takes longer than a step."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_tiny_llava(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_tiny_llava(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def bf16_llava(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model stored in bfloat16, as real ones are."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = tmp_path_factory.mktemp("models") / "bf16"
    AutoModelForImageTextToText.from_pretrained(tiny_llava, dtype="bfloat16").save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_llava).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def saved_models(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One fine-tuned model in both forms of `save_pretrained`; its vectors are far from the base's."""
    import torch

    from mllm_embed import MLLMEmbedder
    from mllm_embed.model.lora import LoraSpec, add_lora

    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")
    torch.manual_seed(0)
    add_lora(embedder.model, LoraSpec(rank=4, dropout=0), embedder.family)
    for parameter in embedder.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("saved")
    embedder.save_pretrained(folder / "adapter")
    embedder.save_pretrained(folder / "merged", merge=True)
    return {"adapter": folder / "adapter", "merged": folder / "merged"}


@pytest.fixture(scope="session")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data") / "halves")


@pytest.fixture
def data(_data: Path, tmp_path: Path) -> Path:
    """A data folder that the test may spoil."""
    return Path(shutil.copytree(_data, tmp_path / "halves"))


@pytest.fixture
def embedder(tiny_llava: Path):
    from mllm_embed import MLLMEmbedder

    return MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        # a data loader's worker processes talk through the first; a server of the test's own listens at the second
        if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
            raise OSError("tests do not use the network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
