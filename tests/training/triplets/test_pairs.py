"""Which pictures are a pair: the three rules on vectors made by hand, where every cosine is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.store.gallery import StoreGallery
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.training.triplets.pictures.pairs import Pair, PairFinder
from mllm_embed.training.triplets.pictures.rules import RULES


def at(angles: dict[str, float], folder: Path) -> StoreGallery:
    """Pictures on a circle: the cosine of two is that of their angles' difference, in degrees."""
    store = VectorStore.create(folder, 2)
    radians = np.radians(list(angles.values()))
    store.add(list(angles), np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32))
    return StoreGallery(VectorStore.open(folder))


def pairs(stores: dict[str, StoreGallery], name: str, groups: Any = None, seed: int = 0, **settings: Any) -> list[Pair]:
    return list(PairFinder(stores, RULES[name].with_settings(settings), groups, seed))


def ends(found: list[Pair]) -> list[tuple[str, str]]:
    return [(pair.reference, pair.target) for pair in found]


def test_megapairs_takes_what_lies_within_its_window(tmp_path: Path) -> None:
    # cos 10 = .985 is nearly the same, cos 20 = .940 and cos 30 = .866 are pairs, cos 40 = .766 is too far
    store = {"picture": at({"a": 0, "same": 10, "b": 20, "c": 30, "far": 40}, tmp_path / "s")}
    found = pairs(store, "megapairs", choice="nearest", pairs=9)
    assert ends(found) == [("a", "b"), ("a", "c"), ("same", "c"), ("same", "far"), ("b", "far")]
    assert found[0].cosine == pytest.approx(math.cos(math.radians(20))) and found[0].by == "picture"
    # a hard negative is near the reference, and is nearly the same picture as neither of the two
    assert [pair.negatives for pair in found] == [("far",), (), (), (), ("a",)]
    wide = {"picture": at({"a": 0, "b": 20, "c": 40, "d": 60, "e": 80}, tmp_path / "t")}
    found = pairs(wide, "megapairs", choice="nearest", negatives=2)
    assert found[0].negatives == ("c", "d")  # also at lower cosines than a pair has, the nearest first


def test_each_similarity_proposes_pairs_by_itself(tmp_path: Path) -> None:
    stores = {
        "picture": at({"a": 0, "b": 25, "c": 90, "d": 91}, tmp_path / "p"),
        "pattern": at({"a": 0, "b": 90, "c": 25, "d": 180}, tmp_path / "q"),
        "caption": at({"c": 0, "d": 25}, tmp_path / "r"),
    }
    finder = PairFinder(stores, RULES["megapairs"])
    found = list(finder)
    # captions of c and d differ, but they are one picture; a and b have no caption, and ask nothing by it
    assert [(pair.reference, pair.target, pair.by) for pair in found] == [("a", "b", "picture"), ("a", "c", "pattern")]
    assert finder.passed_over == {"direction": 2, "duplicate": 2} and finder.by == ["picture", "pattern", "caption"]
    assert pairs(stores, "megapairs", by=("caption",)) == []


def test_two_pictures_are_a_pair_once_unless_both_ways_are_asked(tmp_path: Path) -> None:
    store = {"picture": at({"a": 0, "b": 25}, tmp_path / "s")}
    assert ends(list(PairFinder(store, RULES["megapairs"]))) == [("a", "b")]
    assert ends(list(PairFinder(store, RULES["megapairs"], both_directions=True))) == [("a", "b"), ("b", "a")]


def test_spn4cir_takes_one_of_a_window_of_ranks(tmp_path: Path) -> None:
    names = [f"p{n:02}" for n in range(20)]
    store = {"picture": at({name: 8.0 * n for n, name in enumerate(names)}, tmp_path / "s")}
    ranked = {}
    for n, name in enumerate(names):
        order = sorted((abs(n - m), m) for m in range(20) if m != n)
        ranked[name] = [names[m] for _, m in order]
    found = pairs(store, "spn4cir", ranks=(5, 8))
    assert len(found) > 10 and all(target in ranked[reference][4:8] for reference, target in ends(found))
    assert len({reference for reference, _ in ends(found)}) == len(found)  # one of each
    assert pairs(store, "spn4cir", ranks=(5, 8)) == found  # chosen at random, and the same each time
    assert pairs(store, "spn4cir", ranks=(5, 8), seed=1) != found
    # shares of the 19 others: 5 of 19 and 8 of 19
    assert pairs(store, "spn4cir", ranks=(5 / 19, 8 / 19)) == found
    with pytest.raises(
        ConfigError, match=r"ranks 10000 to 14999 begin past the 19 other pictures; give shares .* 0\.59"
    ):
        pairs(store, "spn4cir")


def test_what_is_chosen_for_a_reference_does_not_change_when_others_come(tmp_path: Path) -> None:
    near = {"a": 0.0, "b": 20, "c": 24, "d": 28}
    some = pairs({"picture": at(near, tmp_path / "s")}, "megapairs", pairs=1)
    more = pairs({"picture": at(near | {"z": 180}, tmp_path / "t")}, "megapairs", pairs=1)
    assert ends(some) == ends(more) and some[0].reference == "a"


def test_magiclens_pairs_pictures_of_one_page(tmp_path: Path) -> None:
    pages = {"a": "x", "b": "x", "c": "x", "d": "y", "e": "y", "alone": "z"}
    stores = {"picture": at({"a": 0, "b": 30, "c": 60, "d": 15, "e": 100, "alone": 31}, tmp_path / "p")}
    # d is nearer to a than b is, and of another page; e has cosine .087 with d, which is too far
    found = pairs(stores, "magiclens", pages)
    assert ends(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert ends(pairs(stores, "magiclens", pages, per_target=1)) == [("a", "b"), ("a", "c")]
    assert ends(pairs(stores, "magiclens", pages, pairs=1)) == [("a", "b"), ("b", "c"), ("c", "a")]
    stores["caption"] = at({"a": 0, "b": 5, "c": 50}, tmp_path / "c")  # those of a and b say nearly the same
    assert ends(pairs(stores, "magiclens", pages)) == [("a", "c"), ("b", "c")]


def test_a_picture_that_is_there_twice_is_no_pair_whatever_the_limits(tmp_path: Path) -> None:
    store = {"picture": at({"a": 0, "copy": 0, "b": 50}, tmp_path / "s")}
    found = pairs(store, "megapairs", cosines=(-1, 1), duplicate=1.0, pairs=5)
    assert ("a", "copy") not in ends(found) and ("a", "b") in ends(found)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cosines": (0.9, 0.8)}, "--cosines are two cosines, the lower one first, not 0.9 0.8"),
        ({"caption_cosines": (0.0, 2.0)}, "--caption-cosines"),
        ({"ranks": (0.5, 7.0)}, "not one of each"),
        ({"ranks": (9.0, 7.0)}, "--ranks are two ranks"),
        ({"duplicate": 1.5}, "--duplicate"),
        ({"by": ("look",)}, "picture, pattern, caption, not 'look'"),
        ({"negatives": -1}, "--negatives"),
    ],
)
def test_numbers_that_make_no_rule_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as told:
        RULES["megapairs"].with_settings(settings)
    assert words in str(told.value)


def test_a_store_of_other_pictures_is_refused(tmp_path: Path) -> None:
    stores = {"picture": at({"a": 0, "b": 25}, tmp_path / "p"), "pattern": at({"x": 0, "y": 25}, tmp_path / "q")}
    with pytest.raises(DataError, match="holds none of the 2 pictures"):
        PairFinder(stores, RULES["megapairs"])
