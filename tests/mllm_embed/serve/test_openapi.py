"""The OpenAPI document is true: requests that are made from it, right and wrong, are answered as it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS

from attacks.target import Target, target
from mllm_embed import MLLMEmbedder

OPERATIONS = {
    "POST /v1/embeddings",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "POST /v2/embed",
    "POST /v1/multimodalembeddings",
    "POST /v1/rerank",
    "POST /v2/rerank",
    "POST /v1/search",
    "GET /v1/gallery",
    "GET /v1/gallery/rows",
    "POST /v1/gallery/rows",
    "DELETE /v1/gallery/rows",
    "GET /v1/gallery/pictures/{id}",
    "GET /health",
    "GET /ready",
    "GET /metrics",
}
# A schema cannot say which characters are a picture, which ids a gallery has, or that one of three fields is given.
EXCLUDED = ("positive_data_acceptance",)
# there is nothing in these that could be wrong
WITHOUT_INPUT = {
    "GET /v1/models",
    "GET /v1/models/{model}",
    "GET /v1/gallery",
    "GET /health",
    "GET /ready",
    "GET /metrics",
}
MODES = schemathesis.GenerationMode
CASES = [(label, MODES.POSITIVE) for label in sorted(OPERATIONS)]
CASES += [(label, MODES.NEGATIVE) for label in sorted(OPERATIONS - WITHOUT_INPUT)]


@pytest.fixture(scope="module")
def services(served_embedder: MLLMEmbedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(served_embedder, tmp_path_factory.mktemp("documented")) as made:
        yield made


@pytest.fixture(scope="module")
def operations(services: Target) -> dict[str, Any]:
    schema = schemathesis.openapi.from_url(f"{services.url}/openapi.json")
    found = [result.ok() for result in schema.get_all_operations()]
    return {operation.label: operation for operation in found}


def test_every_operation_is_tried(operations: dict[str, Any]) -> None:
    assert set(operations) == OPERATIONS


@pytest.mark.parametrize(("label", "mode"), CASES, ids=lambda part: getattr(part, "name", part))
def test_an_operation_answers_as_documented(
    label: str, mode: Any, operations: dict[str, Any], services: Target
) -> None:
    statuses: Counter[int] = Counter()
    excluded = CHECKS.get_by_names(EXCLUDED)

    @settings(max_examples=10, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=operations[label].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        response = case.call(base_url=services.url)
        statuses[response.status_code] += 1
        case.validate_response(response, excluded_checks=excluded)

    ask()
    assert statuses and max(statuses) < 500, statuses
    assert services.sinkhole.connections == 0
