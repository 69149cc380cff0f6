"""What order rows come in, and how a batch of them is encoded."""

from __future__ import annotations

from pathlib import Path

import torch

from mllm_embed import DataFolder, MLLMEmbedder
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
