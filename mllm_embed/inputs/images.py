"""Reading pictures: every picture that the library embeds comes through `load_image`.

`glance` and `content_key` tell pictures apart by their content, `name_of` names one in a message.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, ImageOps

from ..errors import ImageError
from ..types import ImageLike, ImageSource

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 50_000_000


class Glance(NamedTuple):
    """A picture as far as it is known before it is decoded.

    Args:
        content: equal for pictures of one content.
        size: upright width and height in pixels; None for a picture that is made when it is needed.
    """

    content: Hashable
    size: tuple[int, int] | None


def load_image(source: ImageLike, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a picture as upright RGB: first frame, EXIF rotation applied, transparency over white.

    Only the formats in FORMATS are opened; URLs are not fetched.

    Raises ImageError, naming the file, for a missing path, a folder, a URL, an unreadable or truncated picture, an
    unknown format, and more than `max_pixels` pixels.
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source)
    if isinstance(source, ImageSource):
        return _upright_rgb(source.read())
    name = name_of(source)
    with _opened(_stream(source, name), name, max_pixels) as picture:
        picture.load()
        return _upright_rgb(picture)


@contextmanager
def _opened(stream: io.BytesIO, name: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a picture, whose header is read; whatever goes wrong with it, here or within, becomes an ImageError."""
    try:
        with Image.open(stream, formats=IMAGE_FORMATS) as picture:
            # before anything is decoded: a small file may hold gigabytes of pixels
            if picture.width * picture.height > max_pixels:
                raise ImageError(
                    f"{name} has {picture.width} x {picture.height} pixels, over the limit of {max_pixels:,}"
                )
            yield picture
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a {', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]} picture") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has more pixels than the limit of {max_pixels:,}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{name} cannot be read as a picture ({error}); replace the file") from error


def name_of(source: ImageLike) -> str:
    """Return the name of a picture in a message."""
    if isinstance(source, bytes):
        return "the given bytes"
    return "the given picture" if isinstance(source, Image.Image) else str(source)


def content_key(source: ImageLike) -> str:
    """Return a sha256 that equal pictures share: of the file's bytes, or of the size and pixels of a PIL picture.

    Raises ImageError as `load_image` does, for what shows without decoding.
    """
    if isinstance(source, (Image.Image, ImageSource)):
        picture = load_image(source)
        return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
    return hashlib.sha256(_stream(source, name_of(source)).getvalue()).hexdigest()


def glance(source: ImageLike) -> Glance:
    """Return what is known of a picture without decoding it.

    Raises ImageError as `load_image` does, except for what only decoding shows.
    """
    if isinstance(source, Image.Image):
        return Glance(content_key(source), source.size)
    if isinstance(source, ImageSource):
        return Glance(source, None)  # its content would have to be made; equal sources give equal pictures
    name = name_of(source)
    stream = _stream(source, name)
    with _opened(stream, name) as picture:
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) > 4  # those four lie on their side
        size = (picture.height, picture.width) if turned else (picture.width, picture.height)
    return Glance(hashlib.sha256(stream.getbuffer()).hexdigest(), size)


def _stream(source: str | os.PathLike[str] | bytes, name: str) -> io.BytesIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if name.startswith(("http://", "https://", "ftp://", "data:")):
        raise ImageError(f"{name[:80]} is a URL, and none is fetched; download the picture and give its path")
    path = Path(source)
    if path.is_dir():
        raise ImageError(f"{name} is a folder, not a picture")
    if not path.exists():
        raise ImageError(f"{name} does not exist; check the path")
    try:
        return io.BytesIO(path.read_bytes())
    except OSError as error:
        raise ImageError(f"{name} cannot be opened: {error.strerror}") from error


def _upright_rgb(picture: Image.Image) -> Image.Image:
    # turned before it is converted, which drops the EXIF data
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")
