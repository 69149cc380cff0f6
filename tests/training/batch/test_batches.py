"""How rows become a batch: read, measured, cut into chunks, each distinct input encoded once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import families
from mllm_embed import DataFolder, Document, MLLMEmbedder, Query
from mllm_embed.model.families import TESTED
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.training.batch import collator, examples
from mllm_embed.training.batch.collator import ContrastiveBatch, ContrastiveCollator
from mllm_embed.training.batch.examples import Reader
from mllm_embed.training.data import TrainingRow
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.distributed.gradient_caching import BatchEncoder
from mllm_embed.training.recipe.stage_keys.terms import RoleUse

ROLES = ["composed", "query_image", "target_image", "target_text", "source_text"]
WHOLE = 1 << 30


def _batch(
    embedder: MLLMEmbedder, rows: list[TrainingRow], uses: list[RoleUse], chunk_tokens: int = WHOLE
) -> ContrastiveBatch:
    read = Reader(embedder.item_processor.prepared, list(dict.fromkeys(use.role for use in uses)))
    return ContrastiveCollator(embedder.item_processor, uses, chunk_tokens)([read(row) for row in rows])["batch"]


@pytest.mark.parametrize("family", TESTED)
def test_tokens_are_counted_before_anything_is_processed(family: str, tmp_path: Path) -> None:
    """For every family, pictures of several sizes, one and two of them: what chunks are cut by is what they hold."""
    items = MLLMEmbedder.from_pretrained(families.make(family, tmp_path / family), device="cpu").item_processor
    a, b = Image.new("RGB", (32, 32)), Image.new("RGB", (96, 40), "red")
    for item in (
        Document(image=a),
        Query(image=b, instruction="make it red"),
        Document(text="a hat"),
        Document([a, b]),
    ):
        loaded, tokens = items.prepared(item)
        assert tokens == items([loaded])["input_ids"].shape[1], item


def test_chunks_hold_at_most_so_many_tokens_and_every_input_once(embedder: MLLMEmbedder, data: Path) -> None:
    rows = read_rows(DataFolder.open(data), data, "triplets", ROLES)
    uses = [RoleUse(role) for role in ROLES]
    whole = _batch(embedder, rows, uses)
    assert not whole.cached and len(whole.live) == 3  # composed, image, text
    longest = max(chunk["input_ids"].shape[1] for chunk in whole.live)
    cut = _batch(embedder, rows, uses, 2 * longest)
    assert cut.cached and cut.tokens == whole.tokens and len(cut.live) > 3
    assert all(chunk["input_ids"].numel() <= 2 * longest for chunk in cut.live)
    alone = _batch(embedder, rows, uses, 1)
    assert len(alone.live) == len(alone.inputs) == len(whole.inputs)


def test_pictures_beyond_the_room_are_decoded_again_to_the_same_batch(
    embedder: MLLMEmbedder, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_rows(DataFolder.open(data), data, "triplets", ROLES)
    uses = [RoleUse(role) for role in ROLES]
    whole = _batch(embedder, rows, uses)
    monkeypatch.setattr(examples, "HELD_PIXELS", 2 * 32 * 32)
    read = Reader(embedder.item_processor.prepared, ROLES)
    inputs = [prepared for row in rows for played in read(row).roles.values() for prepared in played]
    decoded = [one for one in inputs if any(isinstance(picture, Image.Image) for picture in one.item.images)]
    assert 0 < sum({id(one): one.pixels for one in decoded}.values()) <= examples.HELD_PIXELS
    again = _batch(embedder, rows, uses)
    assert again.inputs.tolist() == whole.inputs.tolist()
    for chunk, expected in zip(again.live, whole.live, strict=True):
        assert all(torch.equal(chunk[name], expected[name]) for name in expected)
    # and a chunk has only so many pixels
    monkeypatch.setattr(collator, "CHUNK_PIXELS", 1)
    alone = _batch(embedder, rows, uses)
    pictures = [chunk for chunk in alone.live if "pixel_values" in chunk]
    assert len(pictures) == sum(len(chunk["input_ids"]) for chunk in whole.live if "pixel_values" in chunk)


def test_one_picture_under_two_names_is_one_input(embedder: MLLMEmbedder, data: Path) -> None:
    row = json.loads((data / "triplets.jsonl").read_text().splitlines()[0])
    shutil.copy(data / row["target_image"], data / "images/copy.png")
    twin = row | {"id": "twin", "target_image": "images/copy.png", "instruction": "another way to say it"}
    (data / "triplets.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (row, twin)))
    target = RoleUse("target_image")
    places = _batch(embedder, read_rows(DataFolder.open(data), data, "triplets", ROLES), [target]).places[target]
    assert places.tolist() == [0, 0]


def test_hard_negatives_come_with_their_owner(embedder: MLLMEmbedder, data: Path) -> None:
    rows = read_rows(DataFolder.open(data), data, "triplets", ["composed", "target_text"])[:3]
    words = [("a", "b"), (), ("b", "c", "d")]
    rows = [
        replace(row, hard_negatives=tuple(Document(text=w) for w in own)) for row, own in zip(rows, words, strict=True)
    ]
    use = RoleUse("hard_negative")
    batch = _batch(embedder, rows, [RoleUse("composed"), use])
    assert batch.owners.tolist() == [0, 0, 2, 2, 2]
    assert batch.places[use][1] == batch.places[use][2] and len(set(batch.places[use].tolist())) == 4
    read = Reader(embedder.item_processor.prepared, ["hard_negative"], hard_negatives=1)
    assert [len(read(row).roles["hard_negative"]) for row in rows] == [1, 0, 1]


def test_equal_inputs_are_encoded_once_and_vectors_are_those_of_encode(embedder: MLLMEmbedder, data: Path) -> None:
    rows = read_rows(DataFolder.open(data), data, "triplets", ROLES)
    batch = _batch(embedder, rows, [RoleUse(role) for role in ROLES])
    places = batch.places
    assert (
        places[RoleUse("query_image")].tolist()[:2] == [places[RoleUse("query_image")][0].item()] * 2
    )  # two rows ask about picture 0
    distinct = len(
        {(row.roles[role].role, str(row.roles[role].image), row.roles[role].words) for row in rows for role in ROLES}
    )
    with torch.no_grad():
        vectors, *_ = BatchEncoder(embedder.model)(batch)
    assert len(vectors) == distinct
    for role in ROLES:
        expected = embedder.encode([row.roles[role] for row in rows], convert_to="torch")
        torch.testing.assert_close(vectors[places[RoleUse(role)]], expected, atol=1e-5, rtol=0)


def test_live_and_frozen_inputs_share_places_among_their_own_and_numbers_across(
    embedder: MLLMEmbedder, data: Path
) -> None:
    rows = read_rows(DataFolder.open(data), data, "triplets", ["target_text", "source_text"])
    live, frozen, both = RoleUse("source_text"), RoleUse("target_text", True), RoleUse("source_text", True)
    batch = _batch(embedder, rows, [live, frozen, both])
    places, inputs = batch.places, batch.inputs
    texts = {use: [row.roles[use.role].text for row in rows] for use in places}
    frozen_texts = {*texts[frozen], *texts[both]}
    assert sum(len(part["input_ids"]) for part in batch.live) == len(set(texts[live]))
    assert sum(len(part["input_ids"]) for part in batch.frozen) == len(frozen_texts)
    assert len(inputs) == len(set(texts[live])) + len(frozen_texts)
    assert set(texts[live]) & set(texts[frozen])  # a target of one row is the source of another
    for one in places:
        for other in places:
            for a, text in zip(places[one], texts[one], strict=True):
                for b, other_text in zip(places[other], texts[other], strict=True):
                    assert (inputs[a] == inputs[b]) == (text == other_text)
                    assert (a == b) == (text == other_text and one.frozen == other.frozen)


def test_frozen_vectors_are_the_base_models_bit_for_bit_without_gradient(
    embedder: MLLMEmbedder, tiny_llava: Path, data: Path
) -> None:
    """Pictures too, whose projector is trained in full; dropout on in what is trained."""
    rows = read_rows(DataFolder.open(data), data, "triplets", ROLES)
    batch = _batch(embedder, rows, [RoleUse(role, frozen) for role in ROLES for frozen in (False, True)])
    with torch.no_grad():
        base = torch.cat([embedder.model(**part) for part in batch.frozen])
    add_lora(embedder.model, LoraSpec(rank=4, dropout=0.5), embedder.family)
    for module in embedder.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5  # the base's own, which real ones have, too
    encoder = BatchEncoder(embedder.model).train()
    with torch.no_grad():
        for parameter in encoder.trainable().values():
            parameter += 0.1 * torch.randn_like(parameter)
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    modes = {name: module.training for name, module in encoder.named_modules()}
    live, frozen = encoder(batch)[0].split(len(base))
    assert torch.equal(frozen, base)
    assert (live - base).abs().max() > 0.01
    (frozen * torch.randn_like(frozen)).sum().backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())
    (live * torch.randn_like(live)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in encoder.named_parameters() if n in trained)
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == trained
    assert {name: module.training for name, module in encoder.named_modules()} == modes
    assert not torch.equal(encoder(batch)[0][: len(live)], live)  # its dropout is on again


def test_texts_offer_their_roles_and_triplets_a_composed_text(embedder: MLLMEmbedder, data: Path) -> None:
    (data / "texts.jsonl").write_text(
        '{"id": "n0", "source_text": "a dog", "target_text": "a cat", "instruction": "as a cat"}\n'
        '{"id": "n1", "source_text": "a dog", "target_text": "it lives", "negative_text": "a stone"}\n'
    )
    folder = DataFolder.open(data)
    first, second = read_rows(folder, data, "texts", ["source_text", "target_text"])
    assert list(first.roles) == ["source_text", "target_text", "composed_text"]
    assert embedder.item_processor.render(first.roles["composed_text"]).count("a dog") == 1
    assert "as a cat" in embedder.item_processor.render(first.roles["composed_text"])
    assert second.roles["negative_text"].text == "a stone" and first.group == second.group
    for row in read_rows(folder, data, "triplets", ["composed_text"]):
        asked = row.roles["composed_text"]
        assert (asked.text, asked.instruction) == (row.roles["source_text"].text, row.roles["composed"].instruction)


def test_several_pictures_and_captioned_targets_reach_the_model(embedder: MLLMEmbedder, data: Path) -> None:
    row = json.loads((data / "triplets.jsonl").read_text().splitlines()[0])
    (data / "triplets.jsonl").write_text(json.dumps({**row, "image": ["images/2.png", "images/3.png"]}) + "\n")
    (read,) = read_rows(DataFolder.open(data), data, "triplets", ["composed", "target_captioned"])
    query, target = _batch(embedder, [read], [RoleUse("composed"), RoleUse("target_captioned")]).live
    image = embedder.processor.image_token_id
    assert [(part["input_ids"] == image).sum().item() for part in (query, target)] == [32, 16]
    assert row["target_text"] in embedder.item_processor.render(read.roles["target_captioned"])
