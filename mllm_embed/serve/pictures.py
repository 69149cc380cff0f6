"""What a request calls a picture, made into bytes that are one as far as shows without decoding them.

A picture comes in the request, as a data URI, base64 or an upload; or from an address, where its host is allowed.
Nothing is ever taken for the name of a file.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote, unquote_to_bytes

from PIL import Image

from ..errors import ImageError
from ..inputs.images import header_size
from ..inputs.picture_formats import HEAD, IMAGE_FORMATS, format_of
from .fetching import Fetcher
from .limits import Limits
from .refusals import Refusal
from .tickets import Ticket, current

_SMALL = 1 << 20  # bytes that are read while others wait, in a few milliseconds; more are read in a thread
_DATA = re.compile(r"data:(?P<kind>[^;,]{0,100})(?P<parameters>(?:;[^;,]{0,100}){0,9}),", re.IGNORECASE)
_WITHOUT = re.compile(r"[A-Za-z0-9+/_-]{64}")  # how base64 begins that no data URI says it is
_PLAIN = str.maketrans("-_", "+/", " \t\r\n\f")
_ANY = ("application/octet-stream", "binary/octet-stream")
_FORMATS = f"{', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]}"
_Given = TypeVar("_Given", str, bytes)


class PictureReader:
    """Reads the pictures of requests."""

    def __init__(self, limits: Limits, fetcher: Fetcher | None = None):
        """Read pictures within limits.

        Args:
            limits: of bytes and pixels.
            fetcher: of pictures that are given by their addresses; None has none fetched.
        """
        self._limits = limits
        self._fetcher = fetcher or Fetcher((), most_bytes=limits.picture, seconds=limits.fetch_seconds)

    async def read(self, address: str, field: str) -> bytes:
        """Return the bytes of a picture: from a data URI, plain base64, or an address of an allowed host.

        `field` is what a message calls it, "input[3].image" say. Raises Refusal 422 for what is no picture of a known
        format, or more than the limits.
        """
        if address[:5].lower() == "data:" or _WITHOUT.match(address):
            return await _aside(len(address), self._inline, address, field)
        content = await self._fetcher.fetch(address.strip(), field)
        self._count_fetched(len(content), field)
        return await _aside(len(content), self._examine, content, field)

    async def check(self, content: bytes, field: str) -> bytes:
        """Return the bytes of an upload. Raises Refusal as `read` does."""
        return await _aside(len(content), self._examine, content, field)

    async def close(self) -> None:
        """Close what is open."""
        await self._fetcher.close()

    def _inline(self, address: str, field: str) -> bytes:
        """Return the bytes of a picture that is written out in a request. Raises Refusal 422."""
        data = _DATA.match(address[:1200])
        if data is None and address[:5].lower() == "data:":
            raise _refusal(field, "is no data URI; write data:image/png;base64, and then the picture in base64")
        kind, parameters = (data["kind"].strip().lower(), data["parameters"].lower()) if data else ("", ";base64")
        if kind and not kind.startswith("image/") and kind not in _ANY:
            raise _refusal(
                field, "is a data URI of something else than a picture; give image/png or the like, no video"
            )
        text = address[data.end() :] if data else address
        self._check_bytes(len(text) * 3 // 4 - 2, field)
        in_base64 = parameters.split(";")[-1].strip() == "base64"
        if not in_base64 and len(text) > _SMALL:  # a hundred bytes of memory for each that is percent-encoded
            raise _refusal(field, "is percent-encoded, and long; write it in base64")
        content = _from_base64(text) if in_base64 else unquote_to_bytes(text)
        if content is None:
            raise _refusal(field, "is not base64; encode the bytes of the picture again")
        return self._examine(content, field)

    def _examine(self, content: bytes, field: str) -> bytes:
        """Return bytes that are a picture as far as its header tells. Raises Refusal 422, in words of our own alone."""
        self._check_bytes(len(content), field)
        if format_of(content[:HEAD]) is None:
            said = "begins in another way" if content else "is empty"
            raise _refusal(field, f"is not a {_FORMATS} picture: it {said}; convert or replace it")
        most = self._limits.pixels
        try:
            width, height = header_size(content)
        except ImageError as error:
            if isinstance(error.__cause__, Image.DecompressionBombError):
                raise _refusal(field, f"has more pixels than the limit of {most:,}; make it smaller") from None
            if error.__cause__ is None:  # said by our own readers, of the size that the header claims
                raise _refusal(field, str(error).partition(" bytes ")[2]) from None
            raise _refusal(field, "is damaged, or of a kind that this server cannot read; replace it") from None
        if width * height > most:
            said = f"has {width} x {height} pixels, over the limit of {most:,}; make it smaller"
            raise _refusal(field, said)
        self._count(width * height, field)
        return content

    def _check_bytes(self, count: int, field: str) -> None:
        if count > self._limits.picture:
            said = f"has more bytes than the limit of {self._limits.picture:,} for a picture; save it smaller"
            raise _refusal(field, said)

    def _count_fetched(self, count: int, field: str) -> None:
        """Raise Refusal 422 where what a request had fetched has more bytes than its body may have."""
        ticket = _ticket()
        if ticket is None:
            return
        ticket.fetched += count
        if ticket.fetched > self._limits.body:
            most = self._limits.body
            raise _refusal(
                field, f"and those before it lead to more bytes than the limit of {most:,}; send fewer at once"
            )

    def _count(self, pixels: int, field: str) -> None:
        """Raise Refusal 422 where all pictures of the request that is being answered have too many pixels together."""
        ticket = _ticket()
        if ticket is None:
            return
        ticket.pixels += pixels
        if ticket.pixels > self._limits.all_pixels:
            most = self._limits.all_pixels
            said = (
                f"and the pictures before it have more pixels than the limit of {most:,} together; send fewer at once"
            )
            raise _refusal(field, said)


def _ticket() -> Ticket | None:
    """Return the ticket of the request that is being answered, None outside of any."""
    try:
        return current()
    except LookupError:
        return None


async def _aside(size: int, function: Callable[[_Given, str], bytes], given: _Given, field: str) -> bytes:
    """Return what a function makes of so many bytes, in a thread where it would keep others waiting."""
    return function(given, field) if size <= _SMALL else await asyncio.to_thread(function, given, field)


def _refusal(field: str, said: str) -> Refusal:
    return Refusal(422, f"{field} {said}", field=field)


def _from_base64(text: str) -> bytes | None:
    """Return what base64 says, in either alphabet, on one line or several, padded or not; None where it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # as most programs write it, it was read by now
        pass
    plain = unquote(text) if "%" in text and len(text) <= _SMALL else text
    plain = plain.translate(_PLAIN).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
