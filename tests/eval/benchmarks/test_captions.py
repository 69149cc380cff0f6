"""Flickr30k and COCO in both directions, held against the rules of E5-V's retrieval.py, restated without our code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.benchmarks import open_suite
from eval.scoring.evaluate import evaluate
from eval.scoring.score import Vectors, score

KS = (1, 5, 10)


def single(hits: np.ndarray) -> float:
    """`hits.float().mean().item() * 100` of torch."""
    return float(np.float32(hits.sum()) / np.float32(len(hits))) * 100


def official_percents(images: np.ndarray, texts: np.ndarray) -> dict[str, list[float]]:
    """Caption i belongs to picture i // 5; a picture is answered by any of its five."""
    similarity = texts.astype(np.float64) @ images.astype(np.float64).T
    owner = np.arange(len(texts)) // 5
    by_text, by_image = np.argsort(-similarity, axis=1), np.argsort(-similarity.T, axis=1)
    return {
        "text-to-image": [single((by_text[:, :k] == owner[:, None]).any(axis=1)) for k in KS],
        "image-to-text": [single((owner[by_image[:, :k]] == np.arange(len(images))[:, None]).any(axis=1)) for k in KS],
    }


@pytest.mark.parametrize("name", ["flickr30k", "coco"])
def test_both_directions_equal_the_official_rules_in_every_digit(
    tmp_path: Path, write: Callable, draw: Callable, name: str
) -> None:
    rows = [
        {
            "filename": f"{number}.jpg",
            "filepath": "val2014",
            "split": ("test", "val", "train")[number % 7 % 3],
            "sentences": [{"raw": f"{number}-{at}"} for at in range(5 + number % 3)],
        }
        for number in range(700)
    ]
    write(tmp_path / f"dataset_{name}.json", {"images": rows})
    suite = open_suite(name, tmp_path, pictures=False)
    kept = [row for row in rows if row["split"] == "test"]
    images, texts = draw(len(kept), [[at // 5] for at in range(5 * len(kept))], noise=2.6)
    vectors = {"text-to-image": Vectors(images, {"text": texts}), "image-to-text": Vectors(texts, {"image": images})}
    result = score(suite, vectors)
    for task, percents in official_percents(images, texts).items():
        (row,) = result.tasks[task].rows.values()
        assert [row[f"R@{k}"].percent for k in KS] == percents
        assert 15 < percents[0] < percents[2] < 99
    forth, back = suite.tasks
    assert (forth.queries[-1][0].words, forth.query_ids[-1]) == ("699-4", "699.jpg#4")
    assert (len(forth.queries), len(back.queries), len(back.gallery)) == (len(texts), len(images), len(texts))


def test_a_sixth_caption_is_left_out_and_captions_are_asked_as_they_stand(karpathy: Callable) -> None:
    forth, back = open_suite("flickr30k", karpathy(), pictures=False).tasks
    wanted = [(f"p{number}.jpg#{at}", f"caption {at} of {number}") for number in range(3) for at in range(5)]
    assert [(name, items[0].words) for name, items in zip(forth.query_ids, forth.queries, strict=True)] == wanted
    assert [(name, item.words) for name, item in zip(back.gallery_ids, back.gallery, strict=True)] == wanted
    assert [list(row) for row in forth.views[0].targets] == [[number] for number in range(3) for _ in range(5)]
    assert [list(row) for row in back.views[0].targets] == [list(range(start, start + 5)) for start in range(0, 15, 5)]


def test_fewer_captions_than_five_keep_captions_and_pictures_together(karpathy: Callable, spoil: Callable) -> None:
    def shorten(content: dict) -> None:
        del content["images"][0]["sentences"][2:]

    folder = karpathy()
    spoil(folder / "dataset_flickr30k.json", shorten)
    forth, back = open_suite("flickr30k", folder, pictures=False).tasks
    assert [len(row) for row in back.views[0].targets] == [2, 5, 5]
    assert [next(iter(back.views[0].targets[1])), back.gallery[2].words] == [2, "caption 0 of 1"]
    assert [row[0] for row in forth.views[0].targets] == [0] * 2 + [1] * 5 + [2] * 5


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("flickr30k", "flickr30k-images"),
        ("flickr30k", "Flickr30k/images"),
        ("flickr30k", "flickr30k/flickr30k-images"),
        ("flickr30k", "."),
        ("coco", "val2014"),
        ("coco", "images/val2014"),
        ("coco", "COCO/images"),
        ("coco", "coco"),
    ],
)
@pytest.mark.parametrize("annotations", ["", "annotations", "karpathy"])
def test_files_are_found_in_every_layout(
    karpathy: Callable, paint: Callable, name: str, layout: str, annotations: str
) -> None:
    folder = karpathy(name, annotations)
    paint(folder, *(f"{layout}/p{number}.jpg" for number in range(3)))
    forth, back = open_suite(name, folder).tasks
    assert [Path(item.image) for item in forth.gallery] == [folder / layout / f"p{number}.jpg" for number in range(3)]
    assert [Path(items[0].image).name for items in back.queries] == ["p0.jpg", "p1.jpg", "p2.jpg"]


def test_an_encoder_is_asked_in_both_directions_without_baselines(karpathy: Callable, paint: Callable, encoder) -> None:
    paint(karpathy(), *(f"images/p{number}.jpg" for number in range(3)))
    result = evaluate(encoder, open_suite("flickr30k", karpathy()))
    forth, back = result.tasks["text-to-image"], result.tasks["image-to-text"]
    assert (list(forth.rows), list(back.rows)) == (["text"], ["image"])
    assert (forth.rows["text"]["R@5"].hits, forth.queries, back.queries, back.gallery) == (15, 15, 3, 15)
    assert back.rows["image"]["R@10"].queries == 3
    assert result.means == {}
