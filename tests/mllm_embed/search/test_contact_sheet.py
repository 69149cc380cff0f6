"""The contact sheet as a picture: frames, thumbnails, text that stays in its column, whole files only."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_embed.errors import DataError, ImageError
from mllm_embed.search.contact_sheet import SheetRow, contact_sheet

GREEN = np.array([22, 163, 74])
COLOURS = [(200, 30, 30), (30, 30, 200), (200, 200, 30)]


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> Image.Image:
    return Image.new("RGB", size, colour)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image).astype(int)


def columns_of(sheet: np.ndarray, colour: tuple[int, int, int] | np.ndarray) -> np.ndarray:
    return np.flatnonzero((sheet == np.asarray(colour)).all(axis=2).any(axis=0))


def test_only_the_right_answer_is_framed(tmp_path: Path) -> None:
    row = SheetRow(picture((90, 90, 90)), "make it blue", [picture(c) for c in COLOURS], [False, True, False])
    sheet = pixels(contact_sheet([row], tmp_path / "new" / "sheet.png", thumb=100))
    framed, right = columns_of(sheet, GREEN), columns_of(sheet, COLOURS[1])
    assert len(right) == 100
    assert framed.min() < right.min() <= right.max() < framed.max() < columns_of(sheet, COLOURS[2]).min()
    assert framed.min() > columns_of(sheet, COLOURS[0]).max()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_no_right_answer_means_no_green(tmp_path: Path) -> None:
    row = SheetRow(None, "make it blue", [picture(c) for c in COLOURS], [False] * 3)
    sheet = pixels(contact_sheet([row], tmp_path / "sheet.png"))
    assert len(columns_of(sheet, GREEN)) == 0
    assert len(columns_of(sheet, COLOURS[0])) == 128


def test_captions_stand_below_their_answers(tmp_path: Path) -> None:
    answers, right = [picture(c) for c in COLOURS[:2]], [True, False]
    plain = pixels(contact_sheet([SheetRow(None, "x", answers, right)], tmp_path / "plain.png", thumb=100))
    row = SheetRow(None, "x", answers, right, ["positive .83", ""])
    sheet = pixels(contact_sheet([row, row], tmp_path / "sheet.png", thumb=100))
    below = sheet[plain.shape[0] - 10 : plain.shape[0] + 10]
    dark = np.flatnonzero((below < 90).all(axis=2).any(axis=0))
    assert len(dark) and dark.min() >= columns_of(sheet, COLOURS[0]).min() - 2
    assert dark.max() < columns_of(sheet, COLOURS[1]).min()
    with pytest.raises(DataError, match="has 2 answers and 1 captions"):
        contact_sheet([SheetRow(None, "x", answers, right, ["a"])], tmp_path / "sheet.png")


def test_rows_have_their_own_heights_and_pictures_keep_their_shape(tmp_path: Path) -> None:
    wide = SheetRow(picture((90, 90, 90), (40, 10)), "x", [picture(COLOURS[0])], [True])
    one = pixels(contact_sheet([wide], tmp_path / "one.png", thumb=80))
    two = pixels(contact_sheet([wide, wide], tmp_path / "two.png", thumb=80))
    assert two.shape[1] == one.shape[1] and two.shape[0] > one.shape[0] + 80
    reference = (one == 90).all(axis=2)
    assert (reference.any(axis=0).sum(), reference.any(axis=1).sum()) == (80, 20)


@pytest.mark.parametrize("text", ["word " * 200, "x" * 900, "a", "\u00fcber gr\u00f6\u00dfer"])
def test_the_instruction_stays_in_its_column(tmp_path: Path, text: str) -> None:
    row = SheetRow(picture((30, 200, 200)), text, [picture(COLOURS[0])], [False])
    sheet = pixels(contact_sheet([row], tmp_path / "sheet.png", thumb=120))
    left, right = columns_of(sheet, (30, 200, 200)).max() + 1, columns_of(sheet, COLOURS[0]).min()
    body = sheet[40:, left:right]
    ink = np.argwhere((body < 100).all(axis=2))
    assert len(ink)
    assert ink[:, 1].min() >= 5 and ink[:, 1].max() <= right - left - 10
    assert ink[:, 0].max() < 120


def test_what_cannot_be_drawn_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    contact_sheet([SheetRow(None, "x", [picture(COLOURS[0])], [True])], path)
    before = path.read_bytes()
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="text.png"):
        contact_sheet([SheetRow(tmp_path / "text.png", "x", [picture(COLOURS[0])], [True])], path)
    with pytest.raises(DataError, match="1 answers and 2 marks"):
        contact_sheet([SheetRow(None, "x", [picture(COLOURS[0])], [True, False])], path)
    with pytest.raises(DataError, match="at least one row"):
        contact_sheet([], path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sheet.png", "text.png"]


def test_paths_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    row = SheetRow(None, "x", [picture(COLOURS[0])], [True])
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("x")
    for path, message in (("x.jpg", "must end in .png"), ("folder.png", "is a folder"), ("file/x.png", "cannot write")):
        with pytest.raises(DataError, match=message):
            contact_sheet([row], tmp_path / path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.png"]
