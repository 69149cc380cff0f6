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
    """One query: its picture (None: words alone), its words, the answers best first, which are right.

    `captions`, one for each answer, stand below the answers; none are needed.
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
        The path written.

    Raises:
        DataError: no rows, a row whose answers and marks or captions differ in number, a path that is no .png file.
        ImageError: a picture that cannot be read.
    """
    target = check_sheet_path(path)
    if not rows:
        raise DataError("a contact sheet needs at least one row")
    for row in rows:
        if len(row.answers) != len(row.right):
            raise DataError(f'row "{row.instruction}" has {len(row.answers)} answers and {len(row.right)} marks')
        if row.captions and len(row.captions) != len(row.answers):
            raise DataError(f'row "{row.instruction}" has {len(row.answers)} answers and {len(row.captions)} captions')
    buffer = io.BytesIO()
    _draw(rows, thumb).save(buffer, format="PNG")
    write_file(target, buffer.getvalue())
    return target


def text_tile(text: str, side: int = 128) -> Image.Image:
    """A square picture [side, side] of a text, cut with an ellipsis where it is too long: an answer that is words."""
    tile = Image.new("RGB", (side, side), _PAPER)
    font = ImageFont.load_default(max(11, side // 10))
    margin = side // 16
    words = _wrapped(text, font, side - 2 * margin, side - 2 * margin)
    ImageDraw.Draw(tile).multiline_text((margin, margin), words, fill=_INK, font=font, spacing=4)
    return tile


def check_sheet_path(path: str | os.PathLike[str]) -> Path:
    """The path, if a contact sheet can be written there.

    Raises:
        DataError: the name does not end in .png, or a folder has that name.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise DataError(f"{target} must end in .png: a contact sheet is a PNG picture")
    if target.is_dir():
        raise DataError(f"{target} is a folder: give the name of a .png file")
    return target


def _draw(rows: Sequence[SheetRow], thumb: int) -> Image.Image:
    small, normal = ImageFont.load_default(max(11, thumb // 10)), ImageFont.load_default(max(12, thumb // 8))
    words = thumb * 3 // 2
    answers = max(len(row.answers) for row in rows)
    step = thumb + 2 * _FRAME + _GAP
    first = _GAP + thumb + _GAP + words + _GAP
    head = _GAP + small.size + _GAP
    height = step + (round(small.size) + _GAP // 2 if any(row.captions for row in rows) else 0)
    sheet = Image.new("RGB", (first + answers * step, round(head + len(rows) * height)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    titles = [(_GAP, "reference"), (2 * _GAP + thumb, "instruction")]
    titles += [(first + number * step + _FRAME, f"{number + 1}") for number in range(answers)]
    for left, title in titles:
        draw.text((left, _GAP), title, fill=_FAINT, font=small)
    for number, row in enumerate(rows):
        top = round(head) + number * height
        draw.line([(_GAP, top - _GAP // 2), (sheet.width - _GAP, top - _GAP // 2)], fill=_LINE)
        if row.reference is not None:
            sheet.paste(_thumbnail(row.reference, thumb), (_GAP - 1, top + _FRAME - 1))
        text = _wrapped(row.instruction, normal, words, thumb)
        draw.multiline_text((2 * _GAP + thumb, top + _FRAME), text, fill=_INK, font=normal, spacing=4)
        for place, (answer, right) in enumerate(zip(row.answers, row.right, strict=True)):
            left = first + place * step
            if right:
                corner = (left + thumb + 2 * _FRAME - 1, top + thumb + 2 * _FRAME - 1)
                draw.rectangle([(left, top), corner], outline=_GREEN, width=_FRAME)
            sheet.paste(_thumbnail(answer, thumb), (left + _FRAME - 1, top + _FRAME - 1))
            if row.captions:
                draw.text((left + _FRAME, top + thumb + 2 * _FRAME), row.captions[place], fill=_INK, font=small)
    return sheet


def _thumbnail(source: ImageLike, side: int) -> Image.Image:
    """A square picture with a hairline, without which a white background would run into the paper."""
    picture = ImageOps.pad(load_image(source), (side, side), method=Image.Resampling.LANCZOS, color=_LINE)
    return ImageOps.expand(picture, 1, _LINE)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, height: int) -> str:
    """The text in lines no wider than `width`, cut with an ellipsis where it gets higher than `height`."""
    room = max(1, int(height // (font.size * 1.2 + 4)))
    lines = [""]
    for word in text.split():
        while word and len(lines) <= room + 1:
            joined = f"{lines[-1]} {word}".strip()
            if font.getlength(joined) <= width:
                lines[-1], word = joined, ""
            elif lines[-1]:
                lines.append("")
            else:
                fits = next(n for n in range(1, len(word) + 1) if font.getlength(word[: n + 1]) > width)
                lines[-1], word = word[:fits], word[fits:]
                lines.append("")
    lines = [line for line in lines if line]
    if len(lines) <= room:
        return "\n".join(lines)
    last = lines[room - 1]
    while last and font.getlength(last + "..") > width:
        last = last[:-1]
    return "\n".join([*lines[: room - 1], last + "..."])
