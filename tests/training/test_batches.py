"""What order rows come in, and how a batch of them is encoded."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from mllm_embed import DataFolder, MLLMEmbedder
from mllm_embed.lora import LoraSpec, add_lora
from mllm_embed.training.collator import ContrastiveCollator
from mllm_embed.training.config import Use
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.sampler import GroupedSampler
from mllm_embed.training.trainer import BatchEncoder

ROLES = ["composed", "query_image", "target_image", "target_text", "source_text"]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    groups = [str(i // 4) for i in range(40)]
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = GroupedSampler(groups, 1, seed)
            sampler.set_epoch(epoch)
            orders[seed, epoch] = list(sampler)
            assert sorted(sampler) == list(range(40)) and list(sampler) == orders[seed, epoch]
    assert len({tuple(order) for order in orders.values()}) == 4


def test_rows_of_one_picture_come_together() -> None:
    groups = [str(i % 10) for i in range(40)]
    order = list(GroupedSampler(groups, 4, 0))
    assert sorted(order) == list(range(40))
    chunks = [order[start : start + 4] for start in range(0, 40, 4)]
    assert all(len({groups[i] for i in chunk}) == 1 for chunk in chunks)
    plain = list(GroupedSampler(groups, 1, 0))
    assert any(len({groups[i] for i in plain[s : s + 4]}) > 1 for s in range(0, 40, 4))


def test_equal_inputs_are_encoded_once_and_vectors_are_those_of_encode(embedder: MLLMEmbedder, data: Path) -> None:
    rows = read_rows(DataFolder.open(data), data, "triplets", ROLES)
    batch = ContrastiveCollator(embedder.items, [Use(role) for role in ROLES])(rows)
    places = batch["places"]
    assert (
        places[Use("query_image")].tolist()[:2] == [places[Use("query_image")][0].item()] * 2
    )  # two rows ask about picture 0
    distinct = len(
        {(row.roles[role].role, str(row.roles[role].image), row.roles[role].words) for row in rows for role in ROLES}
    )
    with torch.no_grad():
        vectors = BatchEncoder(embedder.model)(batch["live"])
    assert len(vectors) == distinct
    for role in ROLES:
        expected = embedder.encode([row.roles[role] for row in rows], convert_to="torch")
        torch.testing.assert_close(vectors[places[Use(role)]], expected, atol=1e-5, rtol=0)


def test_live_and_frozen_inputs_share_places_within_their_tower_and_numbers_across(
    embedder: MLLMEmbedder, data: Path
) -> None:
    rows = read_rows(DataFolder.open(data), data, "triplets", ["target_text", "source_text"])
    live, frozen, both = Use("source_text"), Use("target_text", True), Use("source_text", True)
    batch = ContrastiveCollator(embedder.items, [live, frozen, both])(rows)
    places, inputs = batch["places"], batch["inputs"]
    texts = {use: [row.roles[use.role].text for row in rows] for use in places}
    frozen_texts = {*texts[frozen], *texts[both]}
    assert sum(len(part["input_ids"]) for part in batch["live"]) == len(set(texts[live]))
    assert sum(len(part["input_ids"]) for part in batch["frozen"]) == len(frozen_texts)
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
    batch = ContrastiveCollator(embedder.items, [Use(role, frozen) for role in ROLES for frozen in (False, True)])(rows)
    with torch.no_grad():
        base = torch.cat([embedder.model(**part) for part in batch["frozen"]])
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
    live, frozen = encoder(batch["live"], batch["frozen"]).split(len(base))
    assert torch.equal(frozen, base)
    assert (live - base).abs().max() > 0.01
    (frozen * torch.randn_like(frozen)).sum().backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())
    (live * torch.randn_like(live)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in encoder.named_parameters() if n in trained)
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == trained
    assert {name: module.training for name, module in encoder.named_modules()} == modes
    assert not torch.equal(encoder(batch["live"]), live)  # its dropout is on again


def test_texts_offer_their_roles_and_triplets_a_composed_text(embedder: MLLMEmbedder, data: Path) -> None:
    (data / "texts.jsonl").write_text(
        '{"id": "n0", "source_text": "a dog", "target_text": "a cat", "instruction": "as a cat"}\n'
        '{"id": "n1", "source_text": "a dog", "target_text": "it lives", "negative_text": "a stone"}\n'
    )
    folder = DataFolder.open(data)
    first, second = read_rows(folder, data, "texts", ["source_text", "target_text"])
    assert list(first.roles) == ["source_text", "target_text", "composed_text"]
    assert embedder.items.render(first.roles["composed_text"]).count("a dog") == 1
    assert "as a cat" in embedder.items.render(first.roles["composed_text"])
    assert second.roles["negative_text"].text == "a stone" and first.group == second.group
    for row in read_rows(folder, data, "triplets", ["composed_text"]):
        asked = row.roles["composed_text"]
        assert (asked.text, asked.instruction) == (row.roles["source_text"].text, row.roles["composed"].instruction)


def test_several_pictures_and_captioned_targets_reach_the_model(embedder: MLLMEmbedder, data: Path) -> None:
    row = json.loads((data / "triplets.jsonl").read_text().splitlines()[0])
    (data / "triplets.jsonl").write_text(json.dumps({**row, "image": ["images/2.png", "images/3.png"]}) + "\n")
    (read,) = read_rows(DataFolder.open(data), data, "triplets", ["composed", "target_captioned"])
    collate = ContrastiveCollator(embedder.items, [Use("composed"), Use("target_captioned")])
    query, target = collate([read])["live"]
    image = embedder.processor.image_token_id
    assert [(part["input_ids"] == image).sum().item() for part in (query, target)] == [32, 16]
    assert row["target_text"] in embedder.items.render(read.roles["target_captioned"])
