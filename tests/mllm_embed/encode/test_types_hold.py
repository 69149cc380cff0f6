"""What a type checker says of the code of whoever uses the library."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from pathlib import Path

import numpy as np
import torch

from mllm_embed import MLLMEmbedder, Searcher
from mllm_embed.encode.dual_encoder import DualEncoder
from mllm_embed.encode.encoder import Encoder, PromptedEncoder
from mllm_embed.store.gallery import Gallery


def right(embedder: MLLMEmbedder, pair: DualEncoder, gallery: Gallery) -> None:
    Searcher(embedder, gallery)
    encoders: list[Encoder] = [embedder, pair]
    prompted: list[PromptedEncoder] = [embedder, pair]
    vectors: np.ndarray = embedder.encode([Path("a.jpg"), "a hat"], precision="binary")
    tensor: torch.Tensor = embedder.encode(["a hat"], convert_to="torch")
    queries: np.ndarray = embedder.encode_query(["a hat"], batch_size=8, dim=64)
    asked: torch.Tensor = embedder.encode_query(["a hat"], convert_to="torch")
    coarse: np.ndarray = embedder.encode_query(["a hat"], precision="int8")
    documents: np.ndarray = embedder.encode_document([Path("a.jpg")], precision="int8")
    cosines: np.ndarray = embedder.similarity(queries, documents)
    as_tensor: torch.Tensor = embedder.similarity(tensor, vectors)


def wrong(embedder: MLLMEmbedder, pair: DualEncoder) -> None:
    embedder.encode_query(["a hat"], precison="int8")  # error
    embedder.encode_query(["a hat"], batchsize=8)  # error
    embedder.encode_document(["a hat"], precision="int4")  # error
    vectors: np.ndarray = embedder.encode(["a hat"], convert_to="torch")  # error
    tensor: torch.Tensor = embedder.encode_query(["a hat"])  # error
    embedder.encode(["a hat"], convert_to="list")  # error
    pair.encode(["a hat"], precision="int8")  # error
    cosines: np.ndarray = embedder.similarity(tensor, tensor)  # error
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed: no types are checked")
def test_a_type_checker_lets_right_code_pass_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(CODE)
    root = Path(__file__).resolve().parents[3]
    # by the config of the clone, so that what its own check left of torch and transformers serves here too
    kept = [f"--config-file={root / 'pyproject.toml'}", f"--cache-dir={root / '.mypy_cache'}"]
    command = [sys.executable, "-m", "mypy", *kept, "snippet.py"]
    environment = {**os.environ, "MYPYPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = {int(number) for number in re.findall(r"^snippet\.py:(\d+): error", done.stdout, re.MULTILINE)}
    expected = {number for number, line in enumerate(CODE.split("\n"), 1) if line.endswith("# error")}
    assert found == expected, done.stdout + done.stderr
