"""A retrieval result as one picture: reference, instruction, first answers, the right one framed green."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..errors import DataError
from ..files import write_file
from ..inputs.images import load_image
from ..types import ImageLike

_GAP = 10
_FRAME = 5
_PAPER = (255, 255, 255)
_INK = (25, 25, 25)
_FAINT = (120, 120, 120)
_GREEN = (22, 163, 74)
_LINE = (225, 225, 225)


@dataclass(frozen=True)
class SheetRow:
    """A query on a contact sheet.

    Args:
        reference: its picture; None for words alone.
        instruction: its words.
        answers: pictures, the best one first.
        right: which of them are right.
        captions: what stands below each answer; none are needed.
    """

    reference: ImageLike | None
    instruction: str
    answers: Sequence[ImageLike]
    right: Sequence[bool]
    captions: Sequence[str] = ()


def contact_sheet(rows: Sequence[SheetRow], path: str | os.PathLike[str], thumb: int = 128) -> Path:
    """Draw the rows and write them as a PNG file; an older file is replaced in one step.

    Args:
        rows: what to show, from top to bottom.
        path: the PNG file; missing folders are made.
        thumb: side of a picture in pixels.

    Returns:
        The path that was written.

    Raises:
        DataError: no rows, a row whose answers and marks or captions differ in number, a path that is no .png file.
        ImageError: a picture that cannot be read.
    """
    target = check_sheet_path(path)
    if not rows:
        raise DataError("a contact sheet needs at least one row")
    for row in rows:
        _check_row(row)
    # drawn as a whole before a file is touched: a picture that cannot be read leaves the older sheet
    buffer = io.BytesIO()
    _draw(rows, thumb).save(buffer, format="PNG")
    write_file(target, buffer.getvalue())
    return target


def _check_row(row: SheetRow) -> None:
    if len(row.answers) != len(row.right):
        raise DataError(f'row "{row.instruction}" has {len(row.answers)} answers and {len(row.right)} marks')
    if row.captions and len(row.captions) != len(row.answers):
        raise DataError(f'row "{row.instruction}" has {len(row.answers)} answers and {len(row.captions)} captions')


def text_tile(text: str, side: int = 128) -> Image.Image:
    """Return a square picture of a text, for an answer that is words; a long text is cut with an ellipsis.

    Args:
        text: what stands there.
        side: of the picture in pixels.
    """
    tile = Image.new("RGB", (side, side), _PAPER)
    font = _font(max(11, side // 10))
    margin = side // 16
    words = _wrapped(text, font, side - 2 * margin, side - 2 * margin)
    ImageDraw.Draw(tile).multiline_text((margin, margin), words, fill=_INK, font=font, spacing=4)
    return tile


def check_sheet_path(path: str | os.PathLike[str]) -> Path:
    """Return the path, if a contact sheet can be written there.

    Raises:
        DataError: the name does not end in .png, or a folder has that name.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise DataError(f"{target} must end in .png: a contact sheet is a PNG picture")
    if target.is_dir():
        raise DataError(f"{target} is a folder: give the name of a .png file")
    return target


@dataclass(frozen=True)
class _Layout:
    """Places and sizes on a sheet, in pixels.

    Args:
        thumb: side of a picture.
        words: width of the column of instructions.
        first: left edge of the first answer.
        step: from one answer to the next.
        head: height of the line of titles.
        height: of a row.
        small, normal: fonts of titles and captions, and of instructions.
    """

    thumb: int
    words: int
    first: int
    step: int
    head: int
    height: int
    small: ImageFont.FreeTypeFont
    normal: ImageFont.FreeTypeFont

    @classmethod
    def of(cls, thumb: int, captions: bool) -> _Layout:
        """Return the layout for pictures of a size, with room for captions or without."""
        small, normal = _font(max(11, thumb // 10)), _font(max(12, thumb // 8))
        words = thumb * 3 // 2
        step = thumb + 2 * _FRAME + _GAP
        height = step + (round(small.size) + _GAP // 2 if captions else 0)
        return cls(thumb, words, 3 * _GAP + thumb + words, step, round(2 * _GAP + small.size), height, small, normal)


def _draw(rows: Sequence[SheetRow], thumb: int) -> Image.Image:
    layout = _Layout.of(thumb, any(row.captions for row in rows))
    answers = max(len(row.answers) for row in rows)
    size = layout.first + answers * layout.step, layout.head + len(rows) * layout.height
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    titles = [(_GAP, "reference"), (2 * _GAP + thumb, "instruction")]
    titles += [(layout.first + number * layout.step + _FRAME, f"{number + 1}") for number in range(answers)]
    for left, title in titles:
        draw.text((left, _GAP), title, fill=_FAINT, font=layout.small)
    for number, row in enumerate(rows):
        _draw_row(sheet, draw, row, layout, layout.head + number * layout.height)
    return sheet


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: SheetRow, layout: _Layout, top: int) -> None:
    draw.line([(_GAP, top - _GAP // 2), (sheet.width - _GAP, top - _GAP // 2)], fill=_LINE)
    if row.reference is not None:
        sheet.paste(_thumbnail(row.reference, layout.thumb), (_GAP - 1, top + _FRAME - 1))
    text = _wrapped(row.instruction, layout.normal, layout.words, layout.thumb)
    draw.multiline_text((2 * _GAP + layout.thumb, top + _FRAME), text, fill=_INK, font=layout.normal, spacing=4)
    below = layout.thumb + 2 * _FRAME
    for place, (answer, right) in enumerate(zip(row.answers, row.right, strict=True)):
        left = layout.first + place * layout.step
        if right:
            draw.rectangle([(left, top), (left + below - 1, top + below - 1)], outline=_GREEN, width=_FRAME)
        sheet.paste(_thumbnail(answer, layout.thumb), (left + _FRAME - 1, top + _FRAME - 1))
        if row.captions:
            draw.text((left + _FRAME, top + below), row.captions[place], fill=_INK, font=layout.small)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font in a size of pixels. Raises DataError where Pillow was built without it."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise DataError("this Pillow draws no text in sizes, since it was built without FreeType: install another")
    return font


def _thumbnail(source: ImageLike, side: int) -> Image.Image:
    """Return a square picture with a hairline, without which a white background would run into the paper."""
    picture = ImageOps.pad(load_image(source), (side, side), method=Image.Resampling.LANCZOS, color=_LINE)
    return ImageOps.expand(picture, 1, _LINE)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, height: int) -> str:
    """Return the text in lines no wider than `width`, cut with an ellipsis where it gets higher than `height`."""
    room = max(1, int(height // (font.size * 1.2 + 4)))
    lines = _lines(text, font, width, room + 1)
    if len(lines) <= room:
        return "\n".join(lines)
    last = lines[room - 1]
    while last and font.getlength(last + "..") > width:
        last = last[:-1]
    return "\n".join([*lines[: room - 1], last + "..."])


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Return the text in lines no wider than `width`, a word that is wider in pieces; at least `most` of a long one."""
    lines = [""]
    for word in text.split():
        while word and len(lines) <= most:
            joined = f"{lines[-1]} {word}".strip()
            if font.getlength(joined) <= width:
                lines[-1], word = joined, ""
            elif lines[-1]:
                lines.append("")
            else:
                # not one word fits: a piece of it, of a letter at least, so that the loop ends
                fits = next(n for n in range(1, len(word) + 1) if font.getlength(word[: n + 1]) > width)
                lines[-1], word = word[:fits], word[fits:]
                lines.append("")
    return [line for line in lines if line]
