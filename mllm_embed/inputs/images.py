"""Reading pictures: every picture that the library embeds comes through `load_image`.

`glance` and `content_key` tell pictures apart by their content, `name_of` names one in a message.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from ..errors import ImageError, kind_of
from ..types import ImageLike, ImageSource
from .picture_files import check_format, check_size, picture_bytes, shown_name
from .picture_formats import claimed_size
from .pixels import opaque_rgb
from .png import check_sums, finished

MAX_PIXELS = 50_000_000
# What readers of formats raise over damaged bytes is whatever their arithmetic comes upon, in Pillow's own words too: a
# list of what was seen would be short of the next file. Mistakes of ours among these would show on whole pictures.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError,
    EOFError, RuntimeError, MemoryError, BufferError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
_KEEP_FILES = ("WEBP", "TIFF", "AVIF")  # whose pictures hold on to their file, or to a second canvas
# Pillow remarks on EXIF blocks and the like, of pictures whose pixels are whole. For good, since a filter that is set
# and reset is the whole process's, and pictures are read in threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class Glance(NamedTuple):
    """A picture as far as it is known before it is decoded.

    Args:
        content: equal for pictures of one content.
        size: upright width and height in pixels, as it will be decoded; None for a picture that is made when it is
            needed.
    """

    content: Hashable
    size: tuple[int, int] | None


def load_image(source: ImageLike, max_pixels: int = MAX_PIXELS, *, jpeg_side: int | None = None) -> Image.Image:
    """Return a picture as upright RGB: first frame, EXIF rotation applied, transparency over white.

    Only the formats in `picture_formats.IMAGE_FORMATS` are opened, from regular files; URLs are not fetched. A PIL
    picture is taken at its present frame, and given back as it is where it is upright, opaque RGB. Where an EXIF block
    is damaged, its picture is taken as it lies.

    With `jpeg_side`, the bytes of a JPEG are decoded at 1/8, 1/4 or 1/2 of its width and height, the first of these
    that leaves both at least so many pixels: the decoder leaves out the finer frequencies of each block (libjpeg.txt,
    scale_num and scale_denom), which takes a part of the time and memory, and gives other pixels than resizing does.
    Other formats are decoded whole, and what is no file any more, a PIL picture or an `ImageSource`, is taken as it is.

    Raises ImageError, naming the file, for a missing path, a folder, a URL, an unreadable or truncated picture, an
    unknown format, and more than `max_pixels` pixels.
    """
    if isinstance(source, ImageSource):
        source = _made(source)
    name = name_of(source)
    if isinstance(source, Image.Image):
        _check_pixels(source.size, name, max_pixels)
        with _sentences(name, "give its path, or load it while its file is open"):
            _load(source)
            return _upright_rgb(source)
    content = _content(source, name)
    with _opened(content, name, max_pixels, jpeg_side) as picture:
        if picture.format == "PNG":
            check_sums(content)
        picture.load()
        if picture.format == "PNG":
            picture = finished(picture, content)
        upright = _upright_rgb(picture)
        if upright is picture and picture.format in _KEEP_FILES:
            upright = picture.copy()
        upright.info = {}
        return upright


def name_of(source: ImageLike) -> str:
    """Return the name of a picture in a message."""
    if isinstance(source, bytes):
        return "the given bytes"
    if isinstance(source, Image.Image):
        return "the given picture"
    return shown_name(str(source) if isinstance(source, ImageSource) else source)


def content_key(source: ImageLike) -> str:
    """Return a sha256 that equal pictures share: of the file's bytes, or of the size and pixels of a PIL picture.

    Raises ImageError as `load_image` does, for what shows without decoding.
    """
    if isinstance(source, (Image.Image, ImageSource)):
        return _pixels_key(load_image(source))
    return hashlib.sha256(_content(source, name_of(source))).hexdigest()


class ContentKeys:
    """What `content_key` returns, for which each file is read once."""

    def __init__(self) -> None:
        """Know none."""
        self._known: dict[str, str] = {}

    def of(self, source: ImageLike) -> str:
        """Return the key of a picture. Raises ImageError as `content_key` does."""
        if not isinstance(source, (str, os.PathLike)):
            return content_key(source)
        name = os.fspath(source)
        if name not in self._known:
            self._known[name] = content_key(source)
        return self._known[name]


def glance(source: ImageLike, *, jpeg_side: int | None = None) -> Glance:
    """Return what is known of a picture without decoding it; `jpeg_side` is as for `load_image`, whose size it tells.

    Raises ImageError as `load_image` does, except for what only decoding shows.
    """
    if isinstance(source, Image.Image):
        picture = load_image(source)
        return Glance(_pixels_key(picture), picture.size)
    if isinstance(source, ImageSource):
        return Glance(source, None)  # its content would have to be made; equal sources give equal pictures
    name = name_of(source)
    content = _content(source, name)
    with _opened(content, name, jpeg_side=jpeg_side) as picture:
        size = picture.size
        if _orientation(picture) in _ON_ITS_SIDE and picture.format != "TIFF":  # whose size is upright
            size = (size[1], size[0])
    return Glance(hashlib.sha256(content).hexdigest(), size)


def header_size(content: bytes) -> tuple[int, int]:
    """Return the width and height in pixels that the header of a picture's bytes claims, as the file lies.

    Raises ImageError as `glance` does; where it has a cause, it repeats the words of a decoder.
    """
    name = name_of(content)
    check_size(len(content), name)
    with _opened(content, name) as picture:
        return picture.size


def _load(picture: Image.Image) -> None:
    """Decode a given picture whose file has only been opened. Raises what Pillow does."""
    try:
        if isinstance(picture, PngImageFile) and picture.tile and picture.fp:
            at = picture.fp.tell()
            picture.fp.seek(0)
            check_sums(picture.fp.read())
            picture.fp.seek(at)
        picture.load()
    except _DAMAGE:
        picture.close()  # or Pillow would give what it got so far, when it is asked again
        raise


def _made(source: ImageSource) -> Image.Image:
    name = name_of(source)
    with _sentences(name, "mend what makes it"):
        made = source.read()
    if not isinstance(made, Image.Image):  # an open file has a `read` too
        raise ImageError(f"{name} gives {kind_of(made)} in place of a PIL picture; give the path of a file")
    return made


def _content(source: str | os.PathLike[str] | bytes, name: str) -> bytes:
    """Return the bytes of a picture of a known format. Raises ImageError for others."""
    if isinstance(source, bytes):
        check_size(len(source), name)
        check_format(source, name)
        return source
    return picture_bytes(source)


@contextmanager
def _opened(
    content: bytes, name: str, max_pixels: int = MAX_PIXELS, jpeg_side: int | None = None
) -> Iterator[Image.Image]:
    """Open a picture, whose header is read; whatever goes wrong with it, here or within, becomes an ImageError."""
    kind = check_format(content, name)
    with _sentences(name, "replace the file"):
        claimed = claimed_size(content)
        if claimed:
            _check_pixels(claimed, name, max_pixels)
        with Image.open(io.BytesIO(content), formats=(kind,)) as picture:
            # before anything is decoded: a small file may hold gigabytes of pixels
            _check_pixels(picture.size, name, max_pixels)
            if jpeg_side and isinstance(picture, JpegImageFile):  # one of several pictures in a file (MPO) is one too
                picture.draft(None, (jpeg_side, jpeg_side))  # from here on its size is that at which it is decoded
            yield picture


@contextmanager
def _sentences(name: str, cure: str) -> Iterator[None]:
    """Turn what a damaged picture raises into an ImageError."""
    try:
        yield
    except (Image.UnidentifiedImageError, KeyError) as error:  # the second, where Pillow lacks a whole format
        raise ImageError(f"{name} is damaged, or of a kind that the installed Pillow cannot read; {cure}") from error
    except _DAMAGE as error:
        said = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ImageError(f"{name} cannot be read as a picture ({said}); {cure}") from error


def _check_pixels(size: tuple[int, int], name: str, most: int) -> None:
    width, height = size
    if width * height > most:
        raise ImageError(f"{name} has {width} x {height} pixels, over the limit of {most:,}; make it smaller")
    if not width * height:
        raise ImageError(f"{name} has {width} x {height} pixels, and so nothing to see; give another picture")


def _upright_rgb(picture: Image.Image) -> Image.Image:
    """Return a loaded picture as upright RGB, itself where it is that already, a new one without its EXIF data."""
    turn = _TURNS.get(_orientation(picture))
    rgb = opaque_rgb(picture)
    if turn is not None:
        rgb = rgb.transpose(turn)
    if rgb is not picture:
        rgb.info = {}  # or it would be turned once more, when it is read again
    return rgb


def _orientation(picture: Image.Image) -> int:
    """Return the number by which EXIF or XMP say how a picture lies; 1, as it is, where they are damaged or silent."""
    try:
        # a PNG's own `getexif` would decode the pixels, to look behind them
        found = Image.Image.getexif(picture).get(ExifTags.Base.Orientation)
    except _DAMAGE:
        return 1
    return found if isinstance(found, int) else 1


def _pixels_key(picture: Image.Image) -> str:
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
