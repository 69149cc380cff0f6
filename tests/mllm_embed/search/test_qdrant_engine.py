"""Filters of a Qdrant collection in Qdrant's own engine, as its servers run it, and not the client's copy in Python."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mllm_embed.data.filters import parse_filter
from mllm_embed.search.qdrant_columns import QdrantColumns, kept_payload, limits, path_of
from mllm_embed.store.columns import Columns
from rows_with_values import COLUMNS, fits, random_filter, random_rows

edge = pytest.importorskip("qdrant_edge", reason="needs pip install qdrant-edge-py: Qdrant's engine without a server")
models = pytest.importorskip("qdrant_client", reason="needs pip install mllm_embed[qdrant]").models
ROWS = 200
# the engine's binding for Python takes true for 1, so that no truth value can be asked for
TRUTHS = {name for name, values in COLUMNS.items() if isinstance(values[0], bool)}


def engines(condition: Any) -> Any:
    """Return a filter or condition of the client's as the engine has it."""
    if isinstance(condition, models.Filter):
        sides = (condition.must, condition.should, condition.must_not)
        return edge.Filter(*(side and [engines(one) for one in side] for side in sides))
    if isinstance(condition, models.IsEmptyCondition):
        return edge.IsEmptyCondition(condition.is_empty.key)
    if condition.range is not None:
        return edge.FieldCondition(condition.key, range=edge.RangeFloat(**condition.range.model_dump()))
    return edge.FieldCondition(condition.key, match=edge.MatchAny(list(condition.match.any)))


@pytest.mark.parametrize("indexed", [False, True], ids=["payloads", "indexes of them"])
def test_a_filter_means_what_it_means_in_memory(indexed: bool, tmp_path: Path) -> None:
    chance = random.Random(5)
    rows = random_rows(chance, ROWS)
    columns = Columns.of(rows)
    vectors = edge.EdgeVectorParams(size=2, distance=edge.Distance.Cosine)
    shard = edge.EdgeShard.create(str(tmp_path / "shard"), edge.EdgeConfig(vectors=vectors))
    kinds = {"text": "Keyword", "number": "Float", "truth": "Bool"}
    for name, kind in columns.kinds.items() if indexed else ():
        index = getattr(edge.PayloadSchemaType, kinds[str(kind)])
        shard.update(edge.UpdateOperation.create_field_index(path_of(name), index))
    payloads = map(kept_payload, columns.rows(range(ROWS)))
    points = [edge.Point(row, [1.0, float(row)], payload) for row, payload in enumerate(payloads)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    collection = SimpleNamespace(config=SimpleNamespace(metadata={"columns": columns.kinds}))
    asking = QdrantColumns(SimpleNamespace(get_collection=lambda name: collection), "photos")
    found = 0
    for _ in range(300):
        asked = random_filter(chance, rows, ranges_of_words=False)
        if TRUTHS & asked.keys():
            continue
        wanted = limits(None, (), asking.conditions(parse_filter(asked)))
        answer, _ = shard.scroll(edge.ScrollRequest(limit=ROWS, filter=engines(wanted), with_payload=False))
        fitting = {row for row in range(ROWS) if fits(rows[row], asked)}
        assert {int(point.id) for point in answer} == fitting, asked
        found += len(fitting)
    assert found > 1000
    for name, summary in columns.summary().items() if indexed else ():
        if summary.kind != "number":
            facets = shard.facet(edge.FacetRequest(path_of(name), limit=50, exact=True)).hits
            assert {hit.value: hit.count for hit in facets} == summary.values
    shard.close()
