"""Pictures that no camera makes."""

from __future__ import annotations

import base64
import io
import struct
import zlib

from PIL import Image

from .picture_host import png


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """Return bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def claiming(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that says it has so many pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def many_frames(frames: int = 10_000) -> bytes:
    """Return a GIF that never ends, or nearly so."""
    file = io.BytesIO()
    shown = [Image.new("L", (4, 4), color) for color in (0, 255)]
    shown[0].save(file, "GIF", save_all=True, append_images=shown[1:], duration=10, loop=0)
    content = file.getvalue()
    start = content.index(b"\x21\xf9")  # of the first frame
    frame = content[start : content.index(b"\x21\xf9", start + 2)]
    return content[:start] + frame * frames + b";"


def many_png_frames(frames: int = 3_000) -> bytes:
    """Return an APNG of very many frames."""
    first, *_, last = _chunks(png(4, 4))
    data = next(content for name, content in _chunks(png(4, 4)) if name == b"IDAT")
    parts = [b"\x89PNG\r\n\x1a\n", chunk(*first), chunk(b"acTL", struct.pack(">II", frames, 0))]
    for number in range(frames):
        control = struct.pack(">IIIIIHHBB", 2 * number, 4, 4, 0, 0, 1, 30, 0, 0)
        parts.append(chunk(b"fcTL", control))
        parts.append(chunk(b"IDAT", data) if not number else chunk(b"fdAT", struct.pack(">I", 2 * number + 1) + data))
    return b"".join([*parts, chunk(*last)])


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    at, found = 8, []
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def broken(kind: str) -> bytes:
    """Return a picture that begins well and ends in noise."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(file, kind)
    content = file.getvalue()
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle:])


def polyglot() -> bytes:
    """Return a picture that is a page with a script for whoever does not look at its beginning."""
    return png(8, 8) + b"<html><script>alert(1)</script></html>"
