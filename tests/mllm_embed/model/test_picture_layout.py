"""The records of families say of pictures what their configs hold; a family without an entry is read off its config."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from mllm_embed.model.families import FAMILIES, TESTED, _ordinary, family_of
from mllm_embed.model.picture_layout import AnySize, BestGrid, OneSquare

PICTURE = ("pictures", "tower_width", "keeps_layers")


# of a config that has no vision tower by default
TOWER = {"embedding_gemma2": {"vision_config": {"model_type": "gemma4_vision"}}}


@pytest.mark.parametrize("name", TESTED)
def test_a_record_says_what_the_config_holds(name: str) -> None:
    config = CONFIG_MAPPING[name](**TOWER.get(name, {}))
    record, found = family_of(config), _ordinary(config)
    assert record is FAMILIES[name]
    assert [getattr(record, field) for field in PICTURE] == [getattr(found, field) for field in PICTURE]
    assert (record.rope_index is not None) == hasattr(MODEL_MAPPING[type(config)], "get_rope_index")


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("qwen3_vl_moe", AnySize(frames="temporal_patch_size")),
        ("llava_next_video", BestGrid()),
        ("shieldgemma2", OneSquare(tokens="mm_tokens_per_image")),
        ("vipllava", OneSquare()),
    ],
)
def test_a_family_without_an_entry_cuts_pictures_as_its_config_tells(name: str, layout: object) -> None:
    family = family_of(CONFIG_MAPPING[name]())
    assert name not in FAMILIES and family.pictures == layout
    assert not family.packs and not family.shares_prefixes and family.rope_index is None


def test_a_family_without_an_entry_costs_what_its_sibling_costs() -> None:
    one, other = (CONFIG_MAPPING[name]() for name in ("qwen3_vl", "qwen3_vl_moe"))
    costs = [family_of(config).pictures.cost(config, 640, 480) for config in (one, other)]
    assert costs[0] == costs[1] and (costs[0].tokens, costs[0].patches) == (20 * 15, 40 * 30)


def test_a_config_without_a_vision_tower_is_an_ordinary_family() -> None:
    assert family_of(CONFIG_MAPPING["llama"]()).pictures == OneSquare(side=None)
