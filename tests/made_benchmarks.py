"""Small made-up files of every benchmark that papers report, in the format of the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

CATEGORIES = ("dress", "shirt", "toptee")
GENECIS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
KNOWN = ("fashioniq", "cirr", "circo", "genecis")


def dump(folder: Path, **files: Any) -> Path:
    """Write JSON files; "__" in a name is a folder, "-" a dot."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/').replace('-', '.')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def fashioniq_files(folder: Path, word: str = "is red") -> Path:
    files = {}
    for size, name in zip((40, 60, 90), CATEGORIES, strict=True):
        ids = [f"{name}{number}" for number in range(200)]
        rows = [{"candidate": ids[n], "target": ids[n + 100], "captions": [word, f"is {n}"]} for n in range(size)]
        files |= {f"captions__cap-{name}-val": rows, f"image_splits__split-{name}-val": ids}
    return dump(folder, **files)


def cirr_files(folder: Path) -> Path:
    names = [f"dev-{number}" for number in range(120)]
    rows = [
        {
            "pairid": number,
            "reference": names[number],
            "target_hard": names[number + 1],
            "target_soft": {names[number + 1]: 1.0, names[number + 2]: 0.5},
            "caption": f"with {number}",
            "img_set": {"members": names[number : number + 6]},
        }
        for number in range(100)
    ]
    gallery = {name: f"./dev/{name}.png" for name in names}
    return dump(folder, **{"captions__cap-rc2-val": rows, "image_splits__split-rc2-val": gallery})


def circo_files(folder: Path) -> Path:
    rows = [
        {
            "id": number,
            "reference_img_id": number,
            "target_img_id": number + 50,
            "gt_img_ids": [number + 50, number + 60],
            "relative_caption": f"with {number}",
            "shared_concept": "a thing",
            "semantic_aspects": ["addition"],
        }
        for number in range(40)
    ]
    return dump(folder, val=rows, image_info_unlabeled2017={"images": [{"id": number} for number in range(150)]})


def genecis_files(folder: Path) -> Path:
    files = {}
    for task in GENECIS:
        keys = {"val_image_id": 0} if task.endswith("object") else {"image_id": 0, "instance_bbox": [0, 0, 5, 5]}
        entries = [{**keys, next(iter(keys)): number} for number in range(60)]
        files[task] = [
            {"condition": "wall", "reference": entries[n], "target": entries[n + 1], "gallery": entries[n + 2 : n + 12]}
            for n in range(40)
        ]
    return dump(folder, **files)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "fashioniq": fashioniq_files,
    "cirr": cirr_files,
    "circo": circo_files,
    "genecis": genecis_files,
}
