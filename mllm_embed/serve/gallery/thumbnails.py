"""Pictures as they are sent: in a form that every browser shows, and no wider than is asked."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

from PIL import Image

from ...inputs.images import content_key, load_image
from ...types import ImageLike

_ROOM = 64 << 20  # bytes of pictures that are kept ready
_QUALITY = 88


class Shown(NamedTuple):
    """A picture as it is sent: JPEG, and a tag that changes with it."""

    content: bytes
    tag: str


class Thumbnails:
    """Pictures that were made smaller, the latest of them kept."""

    def __init__(self) -> None:
        """Keep none yet."""
        self._kept: OrderedDict[tuple[str, int | None], Shown] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def shown(self, image: ImageLike, width: int | None) -> Shown:
        """Return a picture, upright and no wider than `width` pixels. Raises ImageError for one that cannot be read."""
        key = content_key(image), width
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = _made(load_image(image), width)
        with self._lock:
            if key not in self._kept:
                self._bytes += len(made.content)
            self._kept[key] = made
            while self._bytes > _ROOM:
                self._bytes -= len(self._kept.popitem(last=False)[1].content)
        return made


def _made(picture: Image.Image, width: int | None) -> Shown:
    if width is not None and picture.width > width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    content = buffer.getvalue()
    return Shown(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
