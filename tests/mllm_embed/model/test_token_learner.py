"""Fewer tokens of a picture: against loops, against inputs made by hand, and in every family that has room for it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from jinja2 import TemplateError
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch import Tensor

import families
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ConfigError, DataError, ModelError
from mllm_embed.model.embedding_model import EmbeddingModel
from mllm_embed.model.families import FAMILIES, TESTED
from mllm_embed.model.heads.token_learner import TokenLearner, TokenLearnerSpec
from mllm_embed.model.vision_features import words_width
from mllm_embed.saving.provenance import SPACE_FIELDS, check_same

TOKENS = 6
REFUSED = ("qwen3_vl", "mllama", "embedding_gemma2")
ALIKE = ("llava_onevision", "smolvlm", "qwen2_5_vl", "qwen2_5_omni_thinker")  # others of their kind are tried
SEES_BOTH_WAYS = ("paligemma", "gemma3")  # of a picture at least: no decoder alone computes that


def _learner(width: int, tokens: int = TOKENS, std: float = 0.2) -> TokenLearner:
    torch.manual_seed(5)
    learner = TokenLearner(TokenLearnerSpec(width, tokens)).eval().requires_grad_(False)
    for parameter in learner.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=std)
    return learner


def _with_learner(plain: MLLMEmbedder, tokens: int = TOKENS) -> MLLMEmbedder:
    own, learner = plain.model, _learner(words_width(plain.model.base), tokens)
    model = EmbeddingModel(own.backbone, own.family, own.pooling, token_learner=learner)
    return MLLMEmbedder(model, plain.processor, replace(plain.settings, picture_tokens=tokens))


def _picture(width: int, height: int, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def _attended(look: torch.nn.Module, asks: Tensor, seen: Tensor) -> Tensor:
    """One head of a look, token by token."""
    keys, values = (look.shown(seen) @ look.key_value.weight.T).chunk(2, dim=-1)
    rows = []
    for one in asks:
        query = look.query.weight @ look.asking(one)
        scores = torch.stack([query @ key / len(query) ** 0.5 for key in keys]).softmax(0)
        rows.append(one + look.out.weight @ sum(s * value for s, value in zip(scores, values, strict=True)))
    return torch.stack(rows)


def test_the_module_is_its_description_and_starts_as_the_mean_of_regions() -> None:
    learner, features = _learner(12), torch.randn(2, 20, 12)
    assert learner.spec.grid == (2, 3) and learner.themselves.heads == 1
    places = [((row + 0.5) / 4 * 2, (column + 0.5) / 5 * 3) for row, column in product(range(4), range(5))]
    middles = list(product((0.5, 1.5), (0.5, 1.5, 2.5)))
    for given, found in zip(features, learner(features, (4, 5)), strict=True):
        shares = []
        for token, (down, across) in zip(given, places, strict=True):
            scores = learner.maps.weight @ learner.norm(token)
            far = torch.tensor([(down - y) ** 2 + (across - x) ** 2 for y, x in middles])
            shares.append((scores - 4 * far).softmax(0))
        share = torch.stack(shares)
        tokens = torch.stack([(group[:, None] * given).sum(0) / group.sum() for group in share.T])
        tokens = _attended(learner.picture, _attended(learner.themselves, tokens, tokens), given)
        torch.testing.assert_close(found, tokens, atol=1e-5, rtol=1e-5)
    new = TokenLearner(TokenLearnerSpec(8, 4))
    eye = torch.eye(16, 8)[None]
    found = new(eye, (4, 4))[0]  # how much of each of the first eight tokens, the upper half, is in what comes out
    upper_left = [0, 1, 4, 5]
    assert found[0, upper_left].sum() > 0.85 and found[2:].sum() < 0.2
    strips = new(torch.eye(8)[None], (1, 8))[0]
    assert (strips[torch.arange(4), torch.arange(0, 8, 2)] > 0.4).all() and strips.sum().item() == pytest.approx(4)
    assert new.of_pictures([eye[0], eye[0, :5]], [(4, 4), (1, 5)]).shape == (2, 4, 8)


def _by_hand(model: MLLMEmbedder, query: Query) -> Tensor:
    """The vector of a query whose learned tokens are put among the words one after the other."""
    base, items = model.model.base, model.item_processor
    given = items.batch([items.render(query)], [list(query.images)])  # as the processor alone makes it
    ids, mark = given["input_ids"][0].tolist(), base.config.image_token_id
    shown = {name: given[name] for name in ("pixel_values", "image_grid_thw", "image_sizes") if name in given}
    pooled = base.get_image_features(**shown, return_dict=True).pooler_output
    features = torch.cat([one.reshape(-1, one.shape[-1]) for one in pooled])
    words, rows, at, end, step = base.get_input_embeddings().weight, [], 0, 0, 0
    places: list[tuple[int, int, int]] = []
    grids = [(high // 2, wide // 2) for _, high, wide in given.get("image_grid_thw", torch.zeros(0, 3)).tolist()]
    while at < len(ids):
        if ids[at] != mark:
            rows.append(words[ids[at]])
            places.append((step,) * 3)
            at, step = at + 1, step + 1
            continue
        run = next((n for n in range(at, len(ids)) if ids[n] != mark), len(ids)) - at
        side = round(run**0.5)
        shape = grids.pop(0) if grids else (side, side) if side**2 == run else (1, run)
        rows += list(model.model.token_learner(features[None, end : end + run], shape)[0])
        places += [(step, step + row, step + column) for row, column in product(range(2), range(3))]
        at, end, step = at + run, end + run, step + (3 if "image_grid_thw" in given else TOKENS)
    positions = torch.tensor(places).T[:, None] if "image_grid_thw" in given else None
    hidden = base.get_decoder()(inputs_embeds=torch.stack(rows)[None], position_ids=positions).last_hidden_state
    return torch.nn.functional.normalize(hidden[0, -1], dim=0)


@pytest.mark.parametrize("family", [name for name in TESTED if name not in ALIKE])
def test_every_family_with_room_for_it(family: str, tmp_path: Path) -> None:
    plain = MLLMEmbedder.from_pretrained(families.make(family, tmp_path / family), dtype="float32", device="cpu")
    if family in REFUSED:
        with pytest.raises(ModelError, match=f"no token learner can stand in a model of the family '{family}'"):
            _with_learner(plain)
        return
    model = _with_learner(plain)
    a, b = _picture(32, 32, 0), _picture(96, 40, 1)
    queries = [Query(b, "make it red"), Query(b, "blue, and larger"), Query([a, b], "both of them")]
    if family == "paligemma":  # whose prompts have nothing between pictures
        with pytest.raises(DataError, match="stand next to each other in the prompt"):
            model.encode(queries[2:])
        queries.pop()
    many = [*queries, Document(a), Document(a, "a caption that is longer than all others of this list"), "a hat"]
    alone = np.concatenate([model.encode([one]) for one in many])
    for packed in (False, True):
        np.testing.assert_allclose(model.encode(many, packed=packed), alone, atol=1e-5)
    if family not in SEES_BOTH_WAYS:
        by_hand = torch.stack([_by_hand(model, query) for query in queries])
        np.testing.assert_allclose(alone[: len(queries)], by_hand.detach().numpy(), atol=1e-5)
    ids = model.item_processor([queries[-1]])["input_ids"]
    placeholders = int((ids == model.model.base.config.image_token_id).sum())
    assert placeholders % TOKENS == 0 and placeholders >= TOKENS * len(queries[-1].images)
    assert np.abs(alone - plain.encode(many)).max(1)[:-1].min() > 1e-3
    assert np.array_equal(model.encode(many[-1:]), plain.encode(many[-1:]))


def test_it_travels_and_makes_another_model(tiny_llava: Path, tmp_path: Path) -> None:
    plain = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32")
    model, pictures = _with_learner(plain), [_picture(32, 32, 0), Query(_picture(64, 32, 1), "make it red")]
    model.save_pretrained(tmp_path / "one")
    again = MLLMEmbedder.from_pretrained(tmp_path / "one", dtype="float32")
    assert np.array_equal(again.encode(pictures), model.encode(pictures))
    assert "becomes 6 tokens by a token learner" in (tmp_path / "one/README.md").read_text()
    with pytest.raises(ConfigError, match=r"weights: .*settings.picture_tokens: null, now 6"):
        check_same(plain.provenance, again.provenance, SPACE_FIELDS, "the store")
    with pytest.raises(TemplateError, match="cannot ask as this model was trained"):
        SentenceTransformer(str(tmp_path / "one"), device="cpu", local_files_only=True).encode(["a hat"])
    model.model.token_learner.maps.weight.data[0] += 1
    model.save_pretrained(tmp_path / "two")
    other = MLLMEmbedder.from_pretrained(tmp_path / "two", dtype="float32").provenance
    assert other["weights"] != again.provenance["weights"] and other["settings"] == again.provenance["settings"]
    (tmp_path / "two/token_learner/model.safetensors").write_bytes(b"spoilt")
    with pytest.raises(ModelError, match="token_learner is damaged"):
        MLLMEmbedder.from_pretrained(tmp_path / "two")
    shutil.rmtree(tmp_path / "two/token_learner")
    with pytest.raises(ModelError, match="say 6 learned tokens a picture, and there is token_learner with no learned"):
        MLLMEmbedder.from_pretrained(tmp_path / "two")


def test_pooled_and_counted_tokens_are_those_that_are_left(tiny_llava: Path) -> None:
    for pooling, pooled in (("mean", "content"), ("mean", "pictures")):
        plain = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", pooling=pooling)
        plain.settings = replace(plain.settings, pooled=pooled)
        items = _with_learner(plain).item_processor
        batch = items([Document(_picture(32, 32, 0), "a cap"), Document(_picture(64, 32, 1), "a longer caption")])
        assert (batch["content_mask"].sum(1) >= TOKENS).all() and batch["content_mask"].shape == batch[
            "input_ids"
        ].shape
        assert items.picture_tokens(500, 300) == TOKENS - 1  # beside the placeholder
        item = Document(_picture(32, 32, 0), "a cap")
        assert items.prepared(item)[1] == items([item])["input_ids"].shape[1]
    wrong = TokenLearner(TokenLearnerSpec(8, 4))
    with pytest.raises(ModelError, match="takes tokens of 8 numbers, and the model's have 64"):
        EmbeddingModel(plain.model.backbone, plain.family, token_learner=wrong)


def test_families_say_where_there_is_room() -> None:
    assert {name for name, family in FAMILIES.items() if not family.compresses} == {"qwen3_vl", "mllama"}
    assert set(REFUSED) <= set(families.FAMILIES)
