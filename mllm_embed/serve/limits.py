"""What a request may cost: its bytes, inputs, pixels and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from ..inputs.images import MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """The most that is taken.

    Args:
        body: bytes of a request.
        inputs: of one request.
        pixels: of one picture.
        words: characters of one text.
        seconds: from a request's first byte to its answer.
        waiting: inputs in the queue, of all requests together.
        answers: of one search, k.
    """

    body: int = 32 << 20
    inputs: int = 256
    pixels: int = MAX_PIXELS
    words: int = 100_000
    seconds: float = 60.0
    waiting: int = 1024
    answers: int = 1000
