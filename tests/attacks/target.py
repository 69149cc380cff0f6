"""A real service to attack: an open one with a gallery that may be written to, and one that asks for a key."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from mllm_embed import MLLMEmbedder, Reranker
from mllm_embed.search.searcher import Searcher
from mllm_embed.serve.access import Access
from mllm_embed.serve.app import bare_app, create_app
from mllm_embed.serve.batcher import Batcher
from mllm_embed.serve.fetching import AllowedHost, Fetcher
from mllm_embed.serve.gallery.kept_pictures import KeptPictures
from mllm_embed.serve.gallery.locked import LockedGallery
from mllm_embed.serve.guards.protocol import GuardedProtocol
from mllm_embed.serve.limits import Limits
from mllm_embed.serve.operations.metrics import Metrics
from mllm_embed.serve.operations.progress import Progress
from mllm_embed.serve.pictures import PictureReader
from mllm_embed.serve.service import Service
from servers.http import PATIENCE, running

from .picture_host import PictureHost, Sinkhole, png

LIMITS = Limits(body=4 << 20, inputs=32, picture=1 << 20, words=20_000, seconds=30, fetch_seconds=3)
KEY = "a-key-that-is-long-enough"
ASKED = {"words": "{query} or {candidate}?", "yes": "good", "no": "bad"}  # in words that the tiny model knows
PUBLIC = "93.184.216.34"  # an address of the internet, which nothing here reaches
HEAD_SECONDS = 1.0
HURRIED = replace(LIMITS, seconds=1)
"""Of the service that asks for a key and computes nothing: what takes long there is an attack."""


class ImpatientProtocol(GuardedProtocol):
    """As served, with less time for a head, which is what most of the tests' time would go to."""

    head_seconds = HEAD_SECONDS


@dataclass
class Names:
    """An enemy's name server: `rebinding` leads to the public first and inside afterwards."""

    sinkhole: int
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host."""
        self.asked.append(host)
        answers = {
            "localhost": ["127.0.0.1"],
            "inside.example.org": ["127.0.0.1"],
            "half-inside.example.org": [PUBLIC, "10.0.0.1"],
            "metadata.example.org": ["169.254.169.254"],
            "mapped.example.org": ["::ffff:127.0.0.1"],
            "translated.example.org": ["64:ff9b::7f00:1"],
            "rebinding.example.org": [PUBLIC] if self.asked.count(host) == 1 else ["127.0.0.1"],
        }
        return answers.get(host, [PUBLIC])


class Detour(httpx.AsyncBaseTransport):
    """Takes what would go to the internet to the host of pictures on this machine, and keeps where it would go."""

    def __init__(self, port: int) -> None:
        """Take requests to a port."""
        self.port, self.went = port, []
        self._over_tcp = httpx.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        self.went.append(request.url.host)
        if request.url.host == PUBLIC:
            request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self.port)
        return await self._over_tcp.handle_async_request(request)

    async def aclose(self) -> None:
        """Close what is open."""
        await self._over_tcp.aclose()


@dataclass
class Answer:
    """What an attack got: a status, 0 where the server hung up without one, and the text of the answer."""

    status: int
    text: str

    @property
    def said(self) -> str:
        """The sentence in an answer, whichever dialect it is in; the whole where it is none."""
        try:
            value = json.loads(self.text)
        except ValueError:
            return self.text
        if not isinstance(value, dict):
            return self.text
        return str(value.get("message") or (value.get("error") or {}).get("message") or self.text)


@dataclass
class Target:
    """The services, and what stands around them."""

    url: str
    keyed_url: str
    sinkhole: Sinkhole
    host: PictureHost
    detour: Detour
    client: httpx.Client
    embedder: MLLMEmbedder

    def post(self, path: str, value: Any = None, **options: Any) -> Answer:
        """Return what a JSON value is answered."""
        return self.ask("POST", path, **({"json": value} if value is not None else {}), **options)

    def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Return what a request is answered, whose path is sent as it stands."""
        base = httpx.URL(options.pop("base", self.url))
        answer = self.client.request(method, base.copy_with(raw_path=path.encode("latin-1")), **options)
        return Answer(answer.status_code, answer.text)

    def raw(self, data: bytes, keyed: bool = False) -> Answer:
        """Return what bytes on the wire are answered, until the server hangs up."""
        port = httpx.URL(self.keyed_url if keyed else self.url).port
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            got = b""
            try:
                connection.sendall(data)
                while part := connection.recv(1 << 16):
                    got += part
            except ConnectionError:
                pass  # it hung up on what was still being sent
        head, _, body = got.partition(b"\r\n\r\n")
        return Answer(int(head.split()[1]) if head else 0, body.decode("utf-8", "replace"))

    def embed(self, image: str) -> Answer:
        """Return what a picture is answered that is to be embedded."""
        return self.post("/v1/embeddings", {"input": [{"image": image}]})


@contextmanager
def target(embedder: MLLMEmbedder, folder: Path) -> Iterator[Target]:
    """Serve a model, with a gallery of three pictures in an empty folder."""
    photos = folder / "photos"
    photos.mkdir()
    for color in ("red", "green", "blue"):
        (photos / f"{color}.png").write_bytes(png(32, 32, color))
    searcher = Searcher(embedder, LockedGallery(Searcher.from_folder(embedder, photos, show_progress=False).gallery))
    with ExitStack() as stack:
        sinkhole = stack.enter_context(closing(Sinkhole()))
        host = stack.enter_context(closing(PictureHost(f"http://127.0.0.1:{sinkhole.port}/secret")))
        allowed = ["*.example.org", "images.example.org", f"localhost:{sinkhole.port}"]
        detour = Detour(host.port)
        fetcher = Fetcher(
            map(AllowedHost.of, allowed),
            most_bytes=LIMITS.picture,
            seconds=LIMITS.fetch_seconds,
            resolve=Names(sinkhole.port),
            transport=detour,
        )
        service = Service(
            embedder,
            Batcher(embedder),
            PictureReader(LIMITS, fetcher),
            Access.of(None),
            "tiny",
            searcher,
            KeptPictures(folder / "kept"),
            limits=LIMITS,
            reranker=Reranker.beside(embedder, prompt=ASKED),
            reranker_name="judge",
        )
        server = stack.enter_context(running(create_app(service), http=ImpatientProtocol))
        keyed = bare_app(Access.of(None, KEY), HURRIED, Metrics(), Progress(None), _nothing)
        keyed_server = stack.enter_context(running(keyed, http=ImpatientProtocol))
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=PATIENCE))
        yield Target(server.url, keyed_server.url, sinkhole, host, detour, client, embedder)


@asynccontextmanager
async def _nothing(app: Any) -> AsyncIterator[None]:
    yield
