"""How far a service is that is being started, and what is answered until it is ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..access import is_open
from ..refusals import Refusal, refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_COUNTS = "/metrics"
_AGAIN = {"retry-after": "2"}


@dataclass
class Progress:
    """What is being done before a service is ready.

    Args:
        doing: in words, "loading the model"; None when the service is ready.
        others: whether the other workers are ready.
    """

    doing: str | None = "starting"
    others: Callable[[], bool] = lambda: True


class Gate:
    """Middleware of ASGI that refuses with 503 what needs the model, until it is there."""

    def __init__(self, app: ASGIApp, progress: Progress) -> None:
        """Stand before an application."""
        self.app, self.progress = app, progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        doing = self.progress.doing
        path = scope.get("path", "")
        # the page asks by itself until the service is ready
        if scope["type"] != "http" or doing is None or path == _COUNTS or is_open(path):
            await self.app(scope, receive, send)
            return
        refusal = Refusal(503, f"not ready yet: {doing}; /ready says when it is", headers=_AGAIN)
        await refuse(scope, receive, send, refusal)
