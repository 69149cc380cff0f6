"""Pictures from addresses, fetched as if each address had been written by an enemy, who may own its name server too.

Nothing is fetched but from hosts that were allowed by name when the server was started. A name is resolved once; if any
of its addresses is not public, none is asked; the connection goes to an address that was looked at, so that a second
answer of the name server changes nothing, and certificates are checked against the name. Redirects are not followed, no
proxy, cookie or password is used, nothing is unpacked, and what comes must be a picture of a bounded size in time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import anyio
import certifi
import httpx

from ..errors import ConfigError
from .guards.addresses import Address, is_public, may_be_named, written
from .refusals import Refusal

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
_PORTS = {"http": 80, "https": 443}
_LONGEST = 2000  # characters of an address
_AT_ONCE = 16  # connections
_NAMES = 4  # that are looked up at once
_NAME = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = rf"(?:{_NAME}(?:\.{_NAME})*|\[[0-9a-f:.]+\])"
# what RFC 3986 allows, and no more: readers of addresses differ over the rest, over a second @ or a backslash say
_ADDRESS = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<target>[/?](?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?(?:#.*)?",
    re.IGNORECASE | re.ASCII,
)
_ALLOWED = re.compile(rf"(?P<any>\*\.)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?(?:=(?P<address>\S+))?", re.ASCII)


@dataclass(frozen=True)
class AllowedHost:
    """A host that pictures may be fetched from.

    Args:
        host: a name in small letters, or an address.
        subdomains: whether it is the names under `host` that are meant, without itself.
        port: the one that is allowed; None for 80 of http and 443 of https.
        address: where it is to be found, without asking a name server; None for wherever its name leads in public.
    """

    host: str
    subdomains: bool = False
    port: int | None = None
    address: Address | None = None

    @classmethod
    def of(cls, text: str) -> AllowedHost:
        """Return what `HOST[:PORT][=ADDRESS]`, `*.HOST` or `ADDRESS[:PORT]` says. Raises ConfigError."""
        found = _ALLOWED.fullmatch(text.strip().lower())
        if found is None or not _is_port(found["port"]):
            raise ConfigError(
                f"'{text}' is no host; give images.example.org, images.example.org:8443, *.example.org, or "
                "images.example.org=10.1.2.3 for one of your own network"
            )
        host = found["host"].strip("[]")
        address = written(found["address"].strip("[]")) if found["address"] else written(host)
        if found["address"] and address is None:
            raise ConfigError(f"'{found['address']}' is no address of a host; give one like 10.1.2.3")
        if found["any"] and (address is not None or "." not in host):
            raise ConfigError(f"'{text}' allows too much; name the hosts")
        if address is not None and not may_be_named(address):
            raise ConfigError(f"'{text}' leads to {address}, where no pictures are; name another host")
        return cls(host, bool(found["any"]), int(found["port"]) if found["port"] else None, address)

    def matches(self, scheme: str, host: str, port: int) -> bool:
        """Whether an address with these parts is meant."""
        named = host.endswith(f".{self.host}") if self.subdomains else host == self.host
        return named and port == (self.port or _PORTS[scheme])


class Fetcher:
    """Fetches pictures from allowed hosts."""

    def __init__(
        self,
        hosts: Iterable[AllowedHost],
        *,
        most_bytes: int,
        seconds: float,
        resolve: Resolve | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        fetched: Callable[[], object] = lambda: None,
    ):
        """Fetch from hosts.

        Args:
            hosts: that may be asked; none by default.
            most_bytes: of a picture.
            seconds: for one picture, from its name to its last byte.
            resolve: gives the addresses of a name and port; by default the system's resolver.
            transport: sends a request to the address in its URL; by default over TCP, by httpx.
            fetched: is called for each picture that came.
        """
        self._hosts, self._most, self._seconds = tuple(hosts), most_bytes, seconds
        # names of their own threads: a name server that hangs would take those that all else is done in
        self._names = ThreadPoolExecutor(_NAMES, "names")
        self._resolve = resolve or self._looked_up
        self._transport, self._fetched = transport, fetched

    async def fetch(self, address: str, field: str) -> bytes:
        """Return the bytes that an address leads to. Raises Refusal 422, which never tells where a name leads.

        Whatever fails on the way there, a name, a port, a certificate, has one sentence: nobody finds out with it what
        there is in a network.
        """
        scheme, host, port, target = _parts(address, field)
        allowed = next((one for one in self._hosts if one.matches(scheme, host, port)), None)
        if allowed is None:
            raise Refusal(
                422,
                f"{field} is an address of a host that this server does not fetch from; send the picture itself, as a "
                "data URI" + ("" if not self._hosts else ", or have the host allowed with --allow-host"),
                field=field,
            )
        try:
            with anyio.fail_after(self._seconds):
                for one in await self._checked(allowed, host, port, field):
                    response = await self._ask(scheme, host, port, target, one)
                    if response is not None:
                        content = await self._content(response, field)
                        self._fetched()
                        return content
        except TimeoutError:
            said = (
                f"{field} could not be fetched within the limit of {self._seconds:g} seconds; send the picture itself"
            )
            raise Refusal(422, said, field=field) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError):
            pass
        raise Refusal(422, f"{field} could not be fetched; check the address, or send the picture itself", field=field)

    async def close(self) -> None:
        """Close what is open."""
        self._names.shutdown(wait=False, cancel_futures=True)
        if self._transport is not None:
            await self._transport.aclose()

    async def _looked_up(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses that the system's resolver knows of a host. Raises OSError."""
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        answers = await asyncio.get_running_loop().run_in_executor(self._names, ask)
        return [str(answer[4][0]) for answer in answers]

    async def _checked(self, allowed: AllowedHost, host: str, port: int, field: str) -> Sequence[Address]:
        """Return the addresses of a host, which may all be asked. Raises Refusal where one of them may not."""
        if allowed.address is not None:
            return [allowed.address]
        try:
            answers = [ipaddress.ip_address(one) for one in await self._resolve(host, port)]
        except (OSError, ValueError):  # UnicodeError, of a name that is none, is the second
            answers = []
        if not all(map(is_public, answers)):
            raise Refusal(
                422,
                f"{field} is an address whose host lies in a private network, which this server does not fetch from; "
                "send the picture itself, or have it allowed with --allow-host HOST=ADDRESS",
                field=field,
            )
        return answers

    async def _ask(self, scheme: str, host: str, port: int, target: str, address: Address) -> httpx.Response | None:
        """Return what a host answers at an address, its body unread; None where nothing listens there."""
        if self._transport is None:
            self._transport = _over_tcp()
        shown = f"[{host}]" if ":" in host else host
        where = f"[{address}]" if address.version == 6 else str(address)
        request = httpx.Request(
            "GET",
            f"{scheme}://{where}:{port}{target}",
            headers={
                "Host": shown if port == _PORTS[scheme] else f"{shown}:{port}",
                "Accept": "image/*",
                "Accept-Encoding": "identity",
                "User-Agent": "mllm_embed",
            },
            extensions={
                "sni_hostname": host,
                "timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._seconds),
            },
        )
        try:
            return await self._transport.handle_async_request(request)
        except httpx.ConnectError:
            return None

    async def _content(self, response: httpx.Response, field: str) -> bytes:
        """Return the body of an answer. Raises Refusal for another status than 200, and for too many bytes."""
        try:
            if response.status_code // 100 == 3:
                raise Refusal(
                    422,
                    f"{field} is an address that answers with a redirect, and none is followed; give the address "
                    "of the picture itself",
                    field=field,
                )
            if response.status_code != 200:
                said = f"{field} is an address that answers with the status {response.status_code}; check it"
                raise Refusal(422, said, field=field)
            content = bytearray()
            async for part in response.aiter_raw():
                content += part
                if len(content) > self._most:
                    most = f"{self._most:,}"
                    said = f"{field} leads to more bytes than the limit of {most} for a picture; send a smaller one"
                    raise Refusal(422, said, field=field)
            return bytes(content)
        finally:
            await response.aclose()


def _parts(address: str, field: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and target of an address. Raises Refusal for whatever is not plainly one."""
    found = _ADDRESS.fullmatch(address) if len(address) <= _LONGEST else None
    if found is None or not _is_port(found["port"]):
        raise Refusal(
            422,
            f"{field} is no picture, and not plainly the address of one; give a data URI (data:image/png;base64,...), "
            "or an address of http or https without user name and password, its other characters percent-encoded",
            field=field,
        )
    scheme, target = found["scheme"].lower(), found["target"] or "/"
    port = int(found["port"]) if found["port"] else _PORTS[scheme]
    return scheme, found["host"].lower().strip("[]"), port, target if target.startswith("/") else f"/{target}"


def _is_port(text: str | None) -> bool:
    return text is None or 0 < int(text) < 1 << 16


def _over_tcp() -> httpx.AsyncHTTPTransport:
    """Return a transport that uses no proxy, and keeps no connection, which a name of another certificate would get."""
    trusted = ssl.create_default_context()
    trusted.load_verify_locations(certifi.where())
    limits = httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=0)
    return httpx.AsyncHTTPTransport(verify=trusted, trust_env=False, limits=limits)
