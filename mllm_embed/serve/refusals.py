"""How a request is refused: a status, and one sentence for whoever sent it."""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):
    """A request that is not carried out.

    Its message goes to the client: it names the field and the cure, and never a path of the server, a key, or what a
    decoder said.
    """

    def __init__(
        self, status: int, message: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
    ):
        """Refuse.

        Args:
            status: of HTTP, 400 to 599.
            message: one sentence.
            field: of the request that is at fault, "input[3].image" say.
            headers: to answer with, Retry-After say.
        """
        super().__init__(message)
        self.status, self.message, self.field, self.headers = status, message, field, dict(headers or {})
