"""HTTP as bytes on a connection: for a load that costs little, and for requests that no client would send."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What came back: a status and the whole body."""

    status: int
    body: bytes
    closes: bool

    def json(self) -> Any:
        """Return the body as JSON. Raises ValueError for one that is none."""
        return json.loads(self.body)


class Connection:
    """One connection to a server, which is opened again when it has been closed."""

    def __init__(self, host: str, port: int):
        """Open nothing yet."""
        self._place = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return its answer. Raises OSError and EOFError for a connection that ends before."""
        reader, writer = await self._open()
        try:
            writer.write(request)
            await writer.drain()
            answer = await _read(reader)
        except BaseException:
            self.close()
            raise
        if answer.closes:
            self.close()
        return answer

    async def leave(self, part: bytes) -> None:
        """Send bytes and hang up."""
        _, writer = await self._open()
        writer.write(part)
        await writer.drain()
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(*self._place, limit=1 << 22)
        return self._streams


def request(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    """Return the bytes of a request; the words of a header's name are joined by `_`."""
    named = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    first, *lines = head.split("\r\n")
    headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(first.split()[1]), body, headers.get("connection") == "close")
