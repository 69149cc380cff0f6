"""Who may ask: the bearer key, and what a browser says about whose page is asking.

A browser carries the pages of strangers. Such a page can send to this machine what a form can send, and, with a name of
its own that leads here (DNS rebinding), read the answers too. So a request that another site's page sends is refused by
its Origin, and, where there is no key that the page would have to know, one that calls this server by a name which it
does not have is refused by its Host.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ConfigError, reason
from .guards.addresses import written
from .refusals import Refusal, refuse

_log = logging.getLogger(__name__)
KEY_VARIABLE = "MLLM_EMBED_API_KEY"
_OPEN = frozenset({"/", "/health", "/ready"})
_PAGE = "/page/"
_READS = ("GET", "HEAD", "OPTIONS")
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SHORTEST = 16  # characters of a key that nobody guesses over a network
_LONGEST_FILE = 1 << 16
# pictures and answers are for pages of this server alone, and are never guessed to be of another kind
_SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Args:
        digests: SHA-256 of each key that is taken; none, where no key is asked for.
        names: what the server is called besides localhost and its addresses, in small letters and without a port.
    """

    digests: tuple[bytes, ...] = field(default=(), repr=False)
    names: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, key_file: str | os.PathLike[str] | None, variable: str | None = None, names: Iterable[str] = ()
    ) -> Access:
        """Return who may ask: those who know a key of a file, or else the key that `variable` holds; else anybody.

        A file has a key on each line, so that a new one can be handed out before the old one goes. Raises ConfigError
        for a key that is empty or cannot stand in a header, for a file that cannot be read, and for a name that no
        request could have; warns of a short key.
        """
        if key_file is not None:
            path = Path(key_file)
            keys = _keys_of(path)
            if not keys:
                raise ConfigError(f"{path} has no key; write one into it, made with: openssl rand -hex 32")
            where = str(path)
        else:
            keys, where = ([] if variable is None else [variable.strip()]), KEY_VARIABLE
        return cls(tuple(_digest(_checked(key, where)) for key in keys), frozenset(map(_checked_name, names)))

    @property
    def has_key(self) -> bool:
        """Whether a key is asked for."""
        return bool(self.digests)

    def check_address(self, host: str, without_key: bool = False) -> None:
        """Raise ConfigError for a server that others than this machine can reach, and that asks them for no key.

        Args:
            host: where it listens.
            without_key: that it is meant.
        """
        if not self.has_key and not without_key and not _loopback(host):
            raise ConfigError(
                f"with --host {host} others than this machine can ask, and no key keeps them out; give --key-file (or "
                f"{KEY_VARIABLE}), or --no-key where everybody may"
            )

    def check(self, scope: Scope) -> None:
        """Raise Refusal for a request that this server does not answer: 401 for its key, 403 for where it is from."""
        headers = Headers(scope=scope)
        host = headers.getlist("host")
        if len(host) > 1:
            raise Refusal(400, "the request has more than one Host; send one")
        if host and not self.has_key and not self._is_ours(_without_port(host[0])):
            raise Refusal(
                403,
                "this server is not called by the name in Host; ask it as localhost or by its address, or start it "
                "with --known-as NAME",
            )
        if scope["method"] not in _READS:
            self._check_origin(headers, host[0] if host else "")
        if self.has_key and not is_open(scope["path"]) and not self._knows_key(headers):
            raise Refusal(
                401,
                "the key is missing or wrong; send the header Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_origin(self, headers: Headers, host: str) -> None:
        origin = headers.get("origin")
        if origin is None:
            return
        authority = origin.partition("://")[2].lower()
        if authority and (authority == host.lower() or _without_port(authority) in self.names):
            return
        raise Refusal(403, "the request comes from the page of another site, which this server does not answer")

    def _is_ours(self, name: str) -> bool:
        return name == "localhost" or name in self.names or written(name) is not None

    def _knows_key(self, headers: Headers) -> bool:
        given = headers.getlist("authorization")
        scheme, _, key = (given[0] if len(given) == 1 else "").partition(" ")
        asked = _digest(key.strip().encode("latin-1"))
        # all of them, so that the time tells neither which key it is nor how much of it is right
        known = [hmac.compare_digest(asked, digest) for digest in self.digests]
        return scheme.lower() == "bearer" and any(known)


class AccessGuard:
    """ASGI middleware that lets through who may ask, and marks all answers as for this server's own pages."""

    def __init__(self, app: ASGIApp, access: Access):
        """Guard an application."""
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it: 401, 403, 400."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._access.check(scope)
        except Refusal as refusal:
            await refuse(scope, receive, marked, refusal)
            return
        await self._app(scope, receive, marked)


def is_open(path: str) -> bool:
    """Return whether a path is for everybody: the page, which asks for the key itself, and how the service is."""
    return path in _OPEN or path.startswith(_PAGE)


def _keys_of(path: Path) -> list[str]:
    """Return the keys of a file. Raises ConfigError; warns where others can read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"the key file {path} cannot be read: {reason(error)}") from error
    if len(content) > _LONGEST_FILE:
        raise ConfigError(f"the key file {path} has more than {_LONGEST_FILE:,} bytes; give a file of keys, one a line")
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        _log.warning("others than its owner can read the key file %s; change that with: chmod 600 %s", path, path)
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"the key file {path} is not UTF-8; write the key in ASCII") from None
    return [line.strip() for line in lines if line.strip()]


def _checked(key: str, where: str) -> bytes:
    """Return a key's bytes. Raises ConfigError, which does not say the key."""
    if not key:
        raise ConfigError(f"the key of {where} is empty; make one with: openssl rand -hex 32, or leave it out")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"a key of {where} has characters other than printable ASCII; make one with: openssl rand -hex 32"
        )
    if len(key) < _SHORTEST:
        _log.warning("a key of %s has fewer than %d characters, and may be guessed", where, _SHORTEST)
    return key.encode()


def _checked_name(name: str) -> str:
    """Return a name in small letters. Raises ConfigError for what is no name, which would let nobody in."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f"--known-as {name} is no name; give one like search.example.org, without http:// and port")
    return name.lower()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _without_port(host: str) -> str:
    """Return the name or address in a Host header, in small letters; an address of IPv6 without its brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _loopback(host: str) -> bool:
    found = written(host.strip("[]"))
    return host == "localhost" or (found is not None and found.is_loopback)
