"""Heads, against sentence-transformers' own modules and against arithmetic written out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jinja2 import TemplateError
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.dense import Dense as TheirDense
from torch import nn

from mllm_embed import MLLMEmbedder
from mllm_embed.convert.pickled import convert_weights
from mllm_embed.errors import ModelError
from mllm_embed.model.embedding_model import EmbeddingModel
from mllm_embed.model.heads.latent_attention import (
    LatentAttention,
    LatentAttentionSpec,
    read_latent_attention,
    write_latent_attention,
)
from mllm_embed.model.heads.projection import Dense, Projection, new_projection, read_projection, write_projection

TEXTS = ["a red hat", "one white horse in front of a black door", "orange"]


def _modules(folder: Path, *paths: str, kind: str = "sentence_transformers.models.Dense") -> None:
    (folder / "modules.json").write_text(
        json.dumps([{"idx": n, "name": str(n), "path": path, "type": kind} for n, path in enumerate(paths)])
    )


def _chain() -> Projection:
    torch.manual_seed(0)
    return Projection([Dense(8, 12, True, "GELU", residual=True), Dense(12, 12, False, "Tanh", True), Dense(12, 5)])


def test_a_chain_is_read_by_both_as_it_was_written(tmp_path: Path) -> None:
    chain = _chain()
    write_projection(tmp_path, chain)
    folders = ["projection", "projection_2", "projection_3"]
    _modules(tmp_path, *folders)
    vectors = torch.randn(4, 8)
    theirs = {"sentence_embedding": vectors}
    for name in folders:
        theirs = TheirDense.load(str(tmp_path / name))(theirs)
    read = read_projection(tmp_path)
    assert (read.in_features, read.out_features) == (8, 5)
    assert torch.equal(read(vectors), chain(vectors)) and torch.equal(theirs["sentence_embedding"], chain(vectors))


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Identity(), nn.ReLU(), nn.SiLU(), nn.GELU(), nn.LeakyReLU()])
@pytest.mark.parametrize("out", [8, 6])
def test_what_they_wrote_is_read_exactly(tmp_path: Path, activation: nn.Module, out: int) -> None:
    theirs = TheirDense(8, out, activation_function=activation, use_residual=True)
    (tmp_path / "2_Dense").mkdir()
    theirs.save(str(tmp_path / "2_Dense"))
    _modules(tmp_path, "2_Dense")
    vectors = torch.randn(3, 8)
    found = read_projection(tmp_path)(vectors)
    assert torch.equal(found, theirs({"sentence_embedding": vectors})["sentence_embedding"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "my_package.Swish"}, "'my_package.Swish', which sentence-transformers would replace"),
        ({"activation_function": "torch.nn.modules.activation.Softmax"}, "Softmax.*of Identity, Tanh"),
        ({"activation_function": None}, "names the activation None"),
        ({"module_input_name": "token_embeddings"}, "makes token_embeddings of token_embeddings"),
        ({"in_features": 7}, r"linear.weight is \[5, 8\], not \[5, 7\]"),
        ({"bias": True}, "linear.weight, not linear.bias, linear.weight"),
        ({"use_residual": "yes"}, "use_residual is 'yes', not true or false"),
    ],
)
def test_a_layer_that_would_be_another_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_projection(tmp_path, new_projection(8, 5))
    _modules(tmp_path, "projection")
    config = tmp_path / "projection/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        read_projection(tmp_path)


def test_weights_that_may_be_code_and_paths_outside_are_refused(tmp_path: Path) -> None:
    write_projection(tmp_path / "model", new_projection(8, 5))
    _modules(tmp_path / "model", "../elsewhere")
    with pytest.raises(ModelError, match=r"path of a module is '\.\./elsewhere'"):
        read_projection(tmp_path / "model")
    _modules(tmp_path / "model", "projection", "projection")
    with pytest.raises(ModelError, match="layer 2 takes 8 numbers, the one before it gives 5"):
        read_projection(tmp_path / "model")
    _modules(tmp_path / "model", "projection")
    weights = tmp_path / "model/projection/model.safetensors"
    pickled = weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ModelError, match="pytorch_model.bin, which is not read.*mllm-embed convert weights"):
        read_projection(tmp_path / "model")
    tensors = {name: tensor.clone() for name, tensor in load_file(pickled).items()}
    pickled.unlink()
    torch.save(tensors, pickled)
    convert_weights(str(weights.parent), tmp_path / "converted")
    shutil.copy(tmp_path / "converted/model.safetensors", weights)
    assert read_projection(tmp_path / "model") is not None


@pytest.fixture
def saved(tiny_llava: Path, tmp_path: Path) -> Callable[..., Path]:
    """Save the tiny model with heads."""

    def save(name: str, projection: Projection | None = None, attention: LatentAttention | None = None) -> Path:
        embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32")
        embedder.model.projection, embedder.model.latent_attention = projection, attention
        if attention is not None:
            embedder.settings = replace(embedder.settings, pooling="mean")
        embedder.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


def test_a_model_travels_with_its_chain_and_is_another_with_another(
    saved: Callable[..., Path], embedder: MLLMEmbedder
) -> None:
    torch.manual_seed(0)
    chain = Projection([Dense(64, 24, True, "GELU"), Dense(24, 10, True)])
    folder = saved("one", chain)
    model = MLLMEmbedder.from_pretrained(folder, dtype="float32")
    with torch.no_grad():
        states = [embedder.model.states(**embedder.item_processor([item]))[0] for item in _items()]
        first, second = (layer.linear for layer in chain.dense)
        hidden = nn.functional.gelu(torch.stack(states) @ first.weight.T + first.bias)
        wanted = nn.functional.normalize(hidden @ second.weight.T + second.bias, dim=-1).numpy()
    np.testing.assert_allclose(model.encode(TEXTS), wanted, atol=1e-5)
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    np.testing.assert_allclose(theirs.encode(TEXTS), wanted, atol=1e-5)
    assert model.dimension == 10
    chain.dense[1].linear.bias.data[0] += 1
    other = MLLMEmbedder.from_pretrained(saved("two", chain), dtype="float32")
    assert other.provenance["base"] == model.provenance["base"]
    assert other.provenance["weights"] != model.provenance["weights"]
    config = folder / "projection/config.json"
    config.write_text(config.read_text().replace("GELU", "SiLU"))
    assert MLLMEmbedder.from_pretrained(folder).provenance["weights"] != model.provenance["weights"]


def _items() -> list[object]:
    from mllm_embed.types import as_item

    return [as_item(text) for text in TEXTS]


def test_latent_attention_is_what_the_paper_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = LatentAttentionSpec(6, latents=5, heads=2, head_width=3, inner=7)
    attention = LatentAttention(spec)
    write_latent_attention(tmp_path, attention)
    read = read_latent_attention(tmp_path)
    hidden = torch.randn(2, 4, 6)
    assert torch.equal(read(hidden), attention(hidden))
    latents = read.latents_norm(read.latents)
    keys, values = (latents @ part.T for part in read.key_value.weight.chunk(2))
    for row in range(2):
        for at in range(4):
            state = hidden[row, at]
            query = read.query.weight @ read.states_norm(state)
            heads = []
            for head in (slice(0, 3), slice(3, 6)):
                scores = torch.stack([query[head] @ key[head] / 3**0.5 for key in keys])
                heads.append(sum(weight * value[head] for weight, value in zip(scores.softmax(0), values, strict=True)))
            state = state + read.out.weight @ torch.cat(heads)
            up = read.up.weight @ read.inner_norm(state) + read.up.bias
            state = state + read.down.weight @ (up[:7] * nn.functional.gelu(up[7:])) + read.down.bias
            torch.testing.assert_close(read(hidden)[row, at], state, atol=1e-6, rtol=1e-6)


def test_a_model_travels_with_its_latent_attention(saved: Callable[..., Path]) -> None:
    torch.manual_seed(0)
    attention = LatentAttention(LatentAttentionSpec(64, latents=8, heads=2, head_width=16, inner=32))
    folder = saved("one", attention=attention)
    model = MLLMEmbedder.from_pretrained(folder, dtype="float32")
    plain = MLLMEmbedder.from_pretrained(folder, dtype="float32")
    plain.model.latent_attention = None
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS), alone, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS, packed=True), alone, atol=1e-5)
    assert np.abs(alone - plain.encode(TEXTS)).max() > 0.01
    weights = folder / "latent_attention/model.safetensors"
    before = model.provenance["weights"]
    save_file({name: tensor * 1.5 for name, tensor in attention.state_dict().items()}, weights)
    assert MLLMEmbedder.from_pretrained(folder).provenance["weights"] != before
    with pytest.raises(TemplateError, match="cannot ask as this model was trained"):
        SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(["a hat"])
    weights.write_bytes(b"spoilt")
    with pytest.raises(ModelError, match="latent_attention is damaged"):
        MLLMEmbedder.from_pretrained(folder)


def test_heads_of_another_width_are_refused(embedder: MLLMEmbedder) -> None:
    with pytest.raises(ModelError, match="takes states of 32 numbers, and the model's have 64"):
        EmbeddingModel(embedder.model.backbone, embedder.family, projection=new_projection(32, 8))


def test_a_single_linear_layer_is_told_by_its_weights_alone() -> None:
    """As folders and stores of earlier versions have it."""
    layer = new_projection(4, 3)
    assert b"".join(layer.identity) == layer.dense[0].linear.weight.detach().numpy().tobytes()
    assert b"".join(_chain().identity) == b"".join(_chain().identity)
