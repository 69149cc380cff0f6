"""Names of pictures beside triplets: where files lie that stay where they are, and files for what lies in tables."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from mllm_embed.errors import DataError
from mllm_embed.inputs.picture_files import check_format

PICTURES = "images"  # the folder of those that get a file, beside triplets.jsonl
_ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}  # where it is not the format's name


def file_of(content: bytes, output: Path) -> str:
    """Return the path that the bytes of a picture get below the folder of its triplets.

    Raises ImageError for what is no picture.
    """
    kind = check_format(content, "the picture")
    digest = hashlib.sha256(content).hexdigest()
    return os.path.join(output, PICTURES, digest[:2], f"{digest}.{_ENDINGS.get(kind, kind.lower())}")


def common_start(paths: Iterable[str], roots: Sequence[str]) -> str:
    """Return the folder that the names of all pictures can start from: where they have one of the roots, that.

    Raises DataError where no folder holds all of them.
    """
    pictures = {os.path.dirname(path): path for path in paths}
    used = list(dict.fromkeys(_root_of(picture, roots) for picture in pictures.values()))
    if len(used) == 1:
        return used[0]
    try:
        return os.path.commonpath([os.path.realpath(folder) for folder in used])
    except ValueError as error:
        raise DataError(
            "the pictures lie on several drives, and no folder holds all: make triplets of each source by itself"
        ) from error


def _root_of(picture: str, roots: Sequence[str]) -> str:
    """Return the first root that a picture lies below, or else its folder."""
    return next((root for root in roots if _below(picture, root) is not None), os.path.dirname(picture))


def name_from(path: str, start: str) -> str:
    """Return the name of a picture from the folder `start`, as a data folder writes names."""
    name = _below(path, start)
    if name is None:  # `start` is no link then, and neither may the folder be; the picture may, and keeps its name
        folder, file = os.path.split(path)
        name = os.path.relpath(os.path.join(_real_folder(os.path.abspath(folder)), file), start)
    return Path(name).as_posix()


def source_line(output: Path, start: str) -> str:
    """Return triplets in `output` as a source that a recipe's `data` takes, as YAML on one line."""
    import yaml

    source = {"path": str(output)}
    if os.path.realpath(start) != os.path.realpath(output):
        source["images"] = start
    return yaml.safe_dump(source, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False).strip()


def _below(path: str, folder: str) -> str | None:
    """Return the rest of a path that begins with a folder and does not leave it; None for any other."""
    start = "" if folder == os.curdir else os.path.join(folder, "")
    rest = path[len(start) :] if path.startswith(start) and not (os.path.isabs(path) > os.path.isabs(folder)) else None
    return None if rest is None or os.path.normpath(rest).split(os.sep)[0] == ".." else rest


@lru_cache(maxsize=4096)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)
