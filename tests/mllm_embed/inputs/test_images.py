"""Pictures as people have them: odd modes and rotations are read, broken files are named."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from mllm_embed.errors import ImageError
from mllm_embed.inputs.images import content_key, load_image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.new("L", (5, 4), 255).convert(mode) if mode != "I;16" else Image.new(mode, (5, 4))
    file = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    picture.save(file)
    loaded = load_image(file)
    assert (loaded.mode, loaded.size) == ("RGB", (5, 4))


def test_transparency_lies_over_white() -> None:
    assert load_image(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_rotation_and_first_frame(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (4, 8)
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "moving.gif").getpixel((0, 0)) == (254, 0, 0) or load_image(
        tmp_path / "moving.gif"
    ).getpixel((0, 0)) == (255, 0, 0)


def test_bytes_and_paths_agree(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (3, 3), "teal").save(file)
    assert load_image(file).tobytes() == load_image(file.read_bytes()).tobytes() == load_image(str(file)).tobytes()
    assert content_key(file) == content_key(file.read_bytes())


def _broken(folder: Path) -> dict[str, tuple[object, str]]:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(whole, "JPEG")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[:900])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    Image.new("1", (9000, 9000)).save(folder / "huge.png")
    Image.new("RGB", (2, 2)).save(folder / "x.ppm")
    names = {
        "truncated": ("cut.jpg", "cannot be read"),
        "text": ("text.png", "is not a"),
        "empty": ("empty.jpg", "is not a"),
        "bomb": ("huge.png", "81000000|9000 x 9000|limit"),
        "format": ("x.ppm", "is not a"),
        "missing": ("none.png", "does not exist"),
        "folder": (".", "is a folder"),
    }
    return {key: (folder / name, message) for key, (name, message) in names.items()}


@pytest.mark.parametrize("case", ["truncated", "text", "empty", "bomb", "format", "missing", "folder"])
def test_unreadable_pictures_are_named(tmp_path: Path, case: str) -> None:
    path, message = _broken(tmp_path)[case]
    with pytest.raises(ImageError, match=message) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_urls_are_not_fetched() -> None:
    with pytest.raises(ImageError, match="is a URL"):
        load_image("https://example.org/a.png")
