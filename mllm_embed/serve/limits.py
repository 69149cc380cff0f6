"""What a request may cost: its bytes, inputs, pixels and seconds."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import ConfigError
from ..inputs.images import MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """The most that is taken. Raises ConfigError for less than one of anything, and for more pixels than are read.

    Args:
        body: bytes of a request.
        bodies: bytes of all requests that are being taken in or answered, together.
        inputs: of one request.
        picture: bytes of one picture.
        pixels: of one picture.
        all_pixels: of one request: a picture of one colour has a few bytes and millions of pixels.
        words: characters of one text.
        seconds: from a request's first byte to its answer.
        fetch_seconds: for one picture that is fetched from its address.
        waiting: inputs in the queue, of all requests together.
        answers: of one search, k.
        ids: of rows that a request names.
    """

    body: int = 32 << 20
    bodies: int = 512 << 20
    inputs: int = 256
    picture: int = 20 << 20
    pixels: int = MAX_PIXELS
    all_pixels: int = 4 * MAX_PIXELS
    words: int = 100_000
    seconds: float = 60.0
    fetch_seconds: float = 10.0
    waiting: int = 1024
    answers: int = 1000
    ids: int = 10_000

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(f"the limit of {field.name} is {getattr(self, field.name)}; give more than 0")
        if self.pixels > MAX_PIXELS:
            raise ConfigError(
                f"the limit of pixels is {self.pixels:,}, but pictures are read to {MAX_PIXELS:,}; lower it"
            )
