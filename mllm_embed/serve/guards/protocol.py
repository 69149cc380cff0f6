"""Connections that would be held open for nothing: heads without end, heads that dribble, answers that nobody reads.

Of uvicorn's two readers of HTTP this is the one of httptools, always: it refuses heads that can be read in two ways, a
length beside pieces say, which the other takes. It bounds neither the time of a request's head nor its bytes.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 << 10
"""Of the first line and the headers of a request; what comes at once with its end is let through."""
HEAD_SECONDS = 15.0
READ_SECONDS = 30.0
"""For which nothing of an answer may be read that waits to be sent."""
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}

if TYPE_CHECKING:
    _Protocol = Any
else:
    _Protocol = HttpToolsProtocol


class GuardedProtocol(_Protocol):
    """uvicorn's protocol, that answers 431 and 408 to heads too long and too slow, and leaves who never reads.

    Its limits are attributes of the class, since uvicorn makes its instances.
    """

    head_bytes = HEAD_BYTES
    head_seconds = HEAD_SECONDS
    read_seconds = READ_SECONDS
    _seen = 0
    _clock: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the first head its time."""
        super().connection_made(transport)
        self._wind()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, and refuse a head that goes on for too long."""
        if self._in_head() and self._clock is None:
            self._wind()
        super().data_received(data)
        if not self._in_head():
            self._stop()
            return
        self._seen += len(data)
        if self._seen > self.head_bytes:
            self._refuse(431, f"the headers have more bytes than the limit of {self.head_bytes:,}; send fewer")

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the words of this service."""
        self._refuse(400, "the request is no HTTP that can be read in one way only; send it with another client")

    def pause_writing(self) -> None:
        """Give the client time to read."""
        super().pause_writing()
        if self._reading is None:
            self._watch()

    def resume_writing(self) -> None:
        """See that it has read."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _watch(self) -> None:
        """Hang up after a while in which nothing was read; who reads slowly may go on."""
        unread = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() < unread:
                self._watch()
            else:
                self.transport.abort()

        self._reading = asyncio.get_running_loop().call_later(self.read_seconds, look)

    def _in_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wind(self) -> None:
        self._clock = asyncio.get_running_loop().call_later(self.head_seconds, self._late)

    def _stop(self) -> None:
        self._seen = 0
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        if not self._seen:  # a browser opens connections in case it will need them
            self.transport.close()
            return
        said = f"the headers did not come within the limit of {self.head_seconds:g} seconds; send them again"
        self._refuse(408, said)

    def _refuse(self, status: int, said: str) -> None:
        """Answer a request that no application has seen, and hang up."""
        self._stop()
        if self.transport.is_closing():
            return
        error = {"message": said, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
