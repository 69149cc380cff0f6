"""FashionIQ (Wu et al., CVPR 2021): dresses, shirts and tops, two captions a query, each category by itself.

Annotations: github.com/XiaoxiaoGuo/fashion-iq. It has no recall code; the rules are those of CLIP4Cir and SEARLE
(`src/validate.py`): the whole gallery of the category, the reference left in it, recall@10 and @50, plain means over
the three categories.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.inputs.prompts import Slot

from ..scoring.metrics import recall
from ..scoring.suite import Mean, Suite, Task, View
from .base import (
    Benchmark,
    BenchmarkFiles,
    Options,
    Places,
    composed_query,
    documents,
    position_of,
    positions_by_id,
    unique,
)

CATEGORIES = ("dress", "shirt", "toptee")
KS = (10, 50)
# How two captions become a query; several patterns are several queries whose vectors are averaged.
CAPTIONS = {
    "and": ("{first} and {second}",),  # CLIP4Cir, SPRC, WeiMoCIR
    "comma": ("{first}, {second}",),
    "comma-and": ("{first}, and {second}",),  # MegaPairs
    "reversed": ("{second} and {first}",),  # Pic2Word
    "both-orders": ("{first} and {second}", "{second} and {first}"),  # SEARLE, LinCIR
    "comma-both-orders": ("{first}, {second}", "{second}, {first}"),  # E5-V, which adds the two at their own lengths
}
FOLDERS = ("images/", "images/{category}/", "resized_images/{category}/", "")
PICTURES = tuple(f"{folder}{{name}}.{end}" for folder in FOLDERS for end in ("jpg", "png"))
# E5-V's words for fashion (github.com/kongds/E5-V, retrieval.py), misspelling included; it calls a toptee a shirt.
E5V: dict[Slot, str] = {
    "image": "\n Describe this {category} in one word based on its style:",
    "composed": " change the style of this {category} to {{instruction}}\n"
    " Desribe this modified {category} in one word based on its style:",
}


def _captions(category: str) -> str:
    return f"{category} captions"


def image_split(category: str) -> str:
    return f"{category} image split"


def _files(split: str, options: Options) -> dict[str, Places]:
    files: dict[str, Places] = {}
    for category in CATEGORIES:
        files[_captions(category)] = (f"captions/cap.{category}.{split}.json",)
        files[image_split(category)] = (f"image_splits/split.{category}.{split}.json",)
    return files


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    tasks = tuple(_task(files, category, options) for category in CATEGORIES)
    means = [_mean(k) for k in KS]
    means.append(Mean("mean", tuple(mean.name for mean in means)))
    return Suite("fashioniq", split, options, tasks, tuple(means), (), _protocol(split, options))


def _mean(k: int) -> Mean:
    return Mean(f"mean R@{k}", tuple(f"{category}/R@{k}" for category in CATEGORIES))


def _protocol(split: str, options: Options) -> dict[str, str]:
    galleries = {
        "original": f"split.<category>.{split}.json, in its order",
        "val": "the pictures that the queries name, references and targets, sorted: the smaller VAL split of older "
        "papers, not comparable with the original",
    }
    return {
        "gallery": galleries[options["gallery"]],
        "query text": " | ".join(CAPTIONS[options["captions"]]) + ", each caption stripped of '.?, '; "
        "where one is empty, the other one alone",
        "excluded": "nothing: the reference picture stays in the gallery",
        "R@K": "the target among the first K; the mean gives each category the same weight",
        "equals": "SEARLE a9c314b and CLIP4Cir dfed9f7 src/validate.py",
        "leaks": "training sets such as MMEB and M-BEIR hold FashionIQ's training split",
    }


def _task(files: BenchmarkFiles, category: str, options: Options) -> Task:
    rows, file = _rows(files, category), files.paths[_captions(category)]
    names = gallery(files, category, rows, options["gallery"])
    place = positions_by_id(names)
    paths = pictures(files, category, names)
    targets, queries = [], []
    for number, row in enumerate(rows):
        where = f"{file} row {number}"
        reference = paths[position_of(place, row["candidate"], where)]
        targets.append((position_of(place, row["target"], where),))
        words = texts(row["captions"], options["captions"])
        queries.append(tuple(composed_query(reference, text) for text in words))
    return Task(
        name=category,
        gallery_ids=names,
        gallery=documents(paths),
        query_ids=list(map(str, range(len(rows)))),
        found_at=("R@10",),
        queries=queries,
        views=(View(recall(KS, single=True), targets),),
        prompts=_prompts(category) if options["prompts"] == "e5v" else {},
        insists=options["prompts"] == "e5v",
    )


def pictures(files: BenchmarkFiles, category: str, names: list[str]) -> list[Path]:
    """Return the paths of a category's pictures, given by their ASINs. Raises DataError where some are missing."""
    return files.pictures(category, PICTURES, [{"name": name, "category": category} for name in names])


def _rows(files: BenchmarkFiles, category: str) -> list[dict[str, Any]]:
    what = _captions(category)
    rows = files.rows(what, {"candidate": str, "target": str, "captions": list})
    for number, row in enumerate(rows):
        if len(row["captions"]) != 2 or not all(isinstance(caption, str) for caption in row["captions"]):
            where = f"{files.paths[what]} row {number}"
            raise DataError(f'{where}: "captions" must be two texts; fetch the file again')
    return rows


def gallery(
    files: BenchmarkFiles, category: str, rows: list[dict[str, Any]] | None = None, option: str = "original"
) -> list[str]:
    """Return the ASINs of a category's gallery, in its order; `rows` are its captions', for the option "val"."""
    file, names = files.paths[image_split(category)], files.json(image_split(category))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file} must hold a list of ASINs; fetch it again")
    if option == "val":
        # sorted, since the order settles ties and the file gives none
        return sorted({row[key] for row in rows or () for key in ("candidate", "target")})
    return unique(names, str(file))


def texts(captions: list[str], rule: str) -> list[str]:
    """Return a row's query texts by a rule of CAPTIONS; where a caption is empty, the other one stands alone."""
    # as CLIP4Cir and SEARLE strip them
    parts = [caption.strip(".?, ") for caption in captions]
    if not all(parts):
        return ["".join(parts)]
    return [pattern.format(first=parts[0], second=parts[1]) for pattern in CAPTIONS[rule]]


def _prompts(category: str) -> dict[Slot, str]:
    word = "shirt" if category == "toptee" else category
    return {role: prompt.format(category=word) for role, prompt in E5V.items()}


FASHIONIQ = Benchmark(
    name="fashioniq",
    about="FashionIQ: three categories, 6,016 queries (val), recall@10 and @50",
    sizes="val: dress 2,017 queries in 3,817 pictures (gallery=val: 2,628), shirt 2,038 in 6,346 (3,089), "
    "toptee 1,961 in 5,373 (2,902)",
    rule="R@10 and R@50 by category, and their plain means; the reference stays in; equals SEARLE, CLIP4Cir",
    splits=("val",),
    options={"gallery": ("original", "val"), "captions": tuple(CAPTIONS), "prompts": ("model", "e5v")},
    files=_files,
    build=_build,
    folders=("", "fashioniq", "FashionIQ", "fashion-iq"),
    annotations="github.com/XiaoxiaoGuo/fashion-iq",
    pictures="Amazon's, by the addresses in github.com/hongwang600/fashion-iq-metadata, as images/<ASIN>.jpg or .png",
)
