"""Each tested family in turn, with the folder of a tiny random model of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import families
from mllm_embed.model.families import TESTED


@pytest.fixture(scope="module", params=TESTED)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.make(family, tmp_path_factory.mktemp("families") / family)
