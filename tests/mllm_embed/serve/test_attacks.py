"""Each attack of the table, against a real service: it is answered as it should be, and told nothing by it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from attacks.listed import ATTACKS, Attack
from attacks.picture_host import png
from attacks.pictures import data_uri
from attacks.target import PUBLIC, Target, target
from mllm_embed import Document, MLLMEmbedder

# addresses of objects and machines, and the words of libraries and of Python
_TELLING = re.compile(
    r"0x[0-9a-f]{6}|Errno|Traceback|File \"|/home|/tmp|/work|site-packages|PIL|httpx|pydantic|starlette|libpng|"
    r"truncated|secret|root:|10\.0\.0\.1"
)


@pytest.fixture(scope="module")
def attacked(served_embedder: MLLMEmbedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(served_embedder, tmp_path_factory.mktemp("attacked")) as services:
        yield services


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.group}: {attack.name}"[:80])
def test_an_attack_is_answered_as_it_should_be(attack: Attack, attacked: Target) -> None:
    answer = attack.send(attacked)
    assert answer.status == attack.status, answer.text
    assert attack.words in answer.text
    assert answer.status < 400 or not _TELLING.search(answer.text), answer.text
    assert len(answer.text) < (2000 if answer.status >= 400 else 1 << 20)


def test_after_all_of_them_nobody_was_reached_and_the_service_answers(attacked: Target) -> None:
    for attack in ATTACKS:
        if attack.group == "addresses of pictures" and "dribbles" not in attack.name:  # which takes its time
            attack.send(attacked)
    assert attacked.sinkhole.connections == 0
    assert set(attacked.detour.went) == {PUBLIC}
    content = png(32, 32, "orange")
    answer = attacked.client.post(f"{attacked.url}/v1/embeddings", json={"input": [{"image": data_uri(content)}]})
    expected = attacked.embedder.encode([Document(image=content)])[0]
    np.testing.assert_allclose(answer.json()["data"][0]["embedding"], expected, rtol=0, atol=1e-5)
