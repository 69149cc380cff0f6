"""`mllm-embed serve`: a model, and a gallery where there is one, behind HTTP."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .ids import local_path
from .model_options import add_model_options, load_embedder

if TYPE_CHECKING:
    import socket

    from ..encode.embedder import MLLMEmbedder
    from ..search.searcher import Searcher
    from ..serve.access import Access
    from ..serve.fetching import AllowedHost
    from ..serve.gallery.kept_pictures import KeptPictures
    from ..serve.limits import Limits
    from ..serve.operations.server import Start
    from ..serve.service import Service
    from ..store.gallery import Gallery

_EXTRA = ("fastapi", "uvicorn", "prometheus_client", "httpx", "python_multipart")
_SERVERS = ("qdrant:http://", "qdrant:https://", "postgresql://", "postgres://")
_LOOPBACK = "127.0.0.1"
_HELP = """\
what it does
  Answers over HTTP in the forms that people's clients speak, so that they need no client of ours:
    POST /v1/embeddings         OpenAI's, vLLM's with pictures, Jina's
    POST /v2/embed              Cohere's
    POST /v1/search             searches of a gallery: a picture, words, or a picture and what to change in it
    GET  /                      a page to search with
    GET  /openapi.json          all of it, field by field
    GET  /health /ready /metrics    for whoever watches it; /ready is 200 when model and gallery are loaded
  What waits is computed together. Ctrl-C, or SIGTERM, finishes what was taken, and a second Ctrl-C ends at once.

the gallery
  What `mllm-embed search --gallery` takes: a store, an index, a collection or table on a server, or a folder of
  pictures, which is embedded first. Without one there are embeddings, and no searches.

who may ask
  This machine alone, unless --host names another address; then a key is asked for, "Authorization: Bearer KEY", that
  stands in --key-file or in the environment's MLLM_EMBED_API_KEY. Make one with: openssl rand -hex 32
  Put what speaks HTTPS in front of it where others than this machine ask.
  Pictures come within a request. Addresses are fetched from hosts that --allow-host names, and from no other.

examples
  mllm-embed serve --model runs/merged
  mllm-embed serve runs/photos --model runs/base --adapter runs/stage2 --port 9000
  mllm-embed serve photos --model runs/merged --writable --log text
  mllm-embed serve runs/photos --model Qwen/Qwen3-VL-Embedding-2B --host 0.0.0.0 --key-file key.txt --workers 4
  curl http://127.0.0.1:8000/v1/embeddings -H "Content-Type: application/json" -d '{"input": "a red shoe"}'
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    serve = commands.add_parser(
        "serve",
        help="answer over HTTP, with a page to search with",
        description="Serve embeddings and searches over HTTP.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("gallery", nargs="?", metavar="GALLERY", help="store, index, collection or folder of pictures")
    add_model_options(serve.add_argument_group("the model"))
    serve.add_argument("--served-name", metavar="N", help="the model's name in requests (default: hub id, or folder)")
    serve.add_argument(
        "--rerank",
        action="store_true",
        help="let searches ask the model to put answers in order; keeps its adapter apart, which computes slower",
    )
    serve.add_argument("--force-dimensions", action="store_true", help="cut vectors that were not trained to be cut")
    serve.add_argument("--writable", action="store_true", help="let requests add and remove rows of the gallery")
    serve.add_argument(
        "--pictures",
        type=local_path,
        metavar="DIR",
        help="with --writable: keep the pictures of new rows here (default: in the store)",
    )
    _add_network_options(serve.add_argument_group("the network"))
    _add_limits(serve.add_argument_group("limits of a request"))
    running = serve.add_argument_group("running")
    running.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes behind the port, a GPU each (default 1)"
    )
    running.add_argument(
        "--max-wait",
        type=float,
        default=2.0,
        metavar="MS",
        help="milliseconds to wait for others' inputs to compute together, where some come (default 2)",
    )
    running.add_argument("--log", choices=("json", "text"), default="json", help="a line a request on stderr, as this")
    serve.set_defaults(run=_run)


def _add_network_options(group: Any) -> None:
    group.add_argument("--host", default=_LOOPBACK, metavar="H", help=f"address to listen on (default {_LOOPBACK})")
    group.add_argument("--port", type=int, default=8000, metavar="P", help="default 8000; 0 takes a free one")
    group.add_argument(
        "--known-as", action="append", default=[], metavar="H", help="a name that clients call this server by"
    )
    group.add_argument("--key-file", type=local_path, metavar="F", help="keys that are taken, one a line")
    group.add_argument("--no-key", action="store_true", help="let everybody ask who reaches an address of --host")
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="H", help="fetch pictures from this host; can be repeated"
    )


def _add_limits(group: Any) -> None:
    group.add_argument("--max-body-mib", type=int, default=32, metavar="N", help="of a body (default 32)")
    group.add_argument("--max-inputs", type=int, default=256, metavar="N", help="of one request (default 256)")
    group.add_argument("--max-pixels", type=int, metavar="N", help="of one picture (default: what the library reads)")
    group.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for an answer (default 60)")


def _run(arguments: argparse.Namespace) -> int:
    # Everything that can be wrong without a model is looked at before it is loaded.
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f'{missing[0]} is not installed: pip install "mllm_embed[serve]"')
    from ..serve.access import KEY_VARIABLE, Access
    from ..serve.fetching import AllowedHost
    from ..serve.operations.server import Plan, listen, serve

    _check(arguments)
    access = Access.of(arguments.key_file, os.environ.get(KEY_VARIABLE), arguments.known_as)
    access.check_address(arguments.host, arguments.no_key)
    limits = _limits(arguments)
    maker = _Maker(arguments, access, limits, [AllowedHost.of(host) for host in arguments.allow_host])
    maker.open()
    plan = Plan(maker, access, limits, arguments.log, arguments.workers)
    with listen(arguments.host, arguments.port) as bound:
        address = _address(arguments.host, bound)
        _greet(arguments, maker, address)
        if arguments.workers > 1:
            from ..serve.operations.workers import serve_with_workers

            serve_with_workers(plan, bound)
        else:
            began = time.monotonic()
            serve(plan, bound, lambda service: _say_ready(service, address, time.monotonic() - began))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for options that are none, or do not fit together."""
    if arguments.workers < 1:
        raise ConfigError(f"--workers must be at least 1, not {arguments.workers}")
    if not 0 <= arguments.port < 1 << 16:
        raise ConfigError(f"--port must be 0 to 65535, not {arguments.port}")
    if not 0 <= arguments.max_wait <= 1000:
        raise ConfigError(f"--max-wait must be 0 to 1000 milliseconds, not {arguments.max_wait:g}")
    if arguments.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, not {arguments.batch_size}")
    if arguments.writable and arguments.gallery is None:
        raise ConfigError("--writable needs a GALLERY: there is nothing to write to")
    if arguments.pictures is not None and not arguments.writable:
        raise ConfigError("--pictures needs --writable: without it no rows are added")
    on_server = arguments.gallery is not None and arguments.gallery.startswith(_SERVERS)
    if arguments.writable and arguments.workers > 1 and not on_server:
        raise ConfigError(
            "--writable with several --workers needs a gallery on a server: of any other each worker has a copy of its "
            "own, which would not see what another adds"
        )


def _limits(arguments: argparse.Namespace) -> Limits:
    from ..serve.limits import Limits

    limits = Limits(body=arguments.max_body_mib << 20, inputs=arguments.max_inputs, seconds=arguments.timeout)
    return limits if arguments.max_pixels is None else replace(limits, pixels=arguments.max_pixels)


@dataclass
class _Maker:
    """Makes the service that the options name, in this process or in a worker's."""

    arguments: argparse.Namespace
    access: Access
    limits: Limits
    hosts: Sequence[AllowedHost]
    gallery: Gallery | None = field(default=None, init=False)

    def open(self) -> None:
        """Open the gallery, and see that what is to be written to can be. Raises DataError and ConfigError."""
        from ..data.picture_source import picture_folder
        from ..search.searcher import stored_gallery

        if self.arguments.gallery is None:
            return
        self.gallery = stored_gallery(self.arguments.gallery)
        if self.gallery is not None:
            self._kept(self.gallery)
            return
        if self.arguments.workers > 1:
            raise ConfigError(
                f"each of the workers would embed {self.arguments.gallery}: make a store of it with `mllm-embed "
                "encode`, and serve that"
            )
        if self.arguments.writable:
            raise ConfigError(
                f"rows that are added to {self.arguments.gallery} would be lost at the end: make a store of it with "
                "`mllm-embed encode`, and serve that"
            )
        folder = picture_folder(self.arguments.gallery)
        folder.check()
        sys.stderr.write("".join(f"{note}\n" for note in folder.notes))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "gallery": None}  # a worker opens its own

    def __call__(self, start: Start) -> Service:
        """Return the service. Raises as `MLLMEmbedder.from_pretrained` and `Searcher` do."""
        from ..serve.batcher import Batcher
        from ..serve.fetching import Fetcher
        from ..serve.pictures import PictureReader
        from ..serve.service import Service

        start.progress.doing = "loading the model"
        embedder = load_embedder(_for_worker(self.arguments, start), merge=not self.arguments.rerank)
        embedder.encode(["ready?"])  # what is made at the first input only is made now
        searcher = self._searcher(embedder, start)
        fetcher = Fetcher(self.hosts, most_bytes=self.limits.picture, seconds=self.limits.fetch_seconds)
        return Service(
            embedder,
            Batcher(
                embedder,
                batch_size=self.arguments.batch_size,
                max_wait=self.arguments.max_wait / 1000,
                waiting=self.limits.waiting,
                observe=start.metrics,
            ),
            PictureReader(self.limits, fetcher),
            self.access,
            model_name(self.arguments),
            searcher,
            None if searcher is None or not self.arguments.writable else self._kept(searcher.gallery),
            self.arguments.force_dimensions,
            self.limits,
            start.metrics,
        )

    def _searcher(self, embedder: MLLMEmbedder, start: Start) -> Searcher | None:
        from ..search.searcher import Searcher, stored_gallery
        from ..serve.gallery.locked import LockedGallery

        place = self.arguments.gallery
        if place is None:
            return None
        start.progress.doing = "loading the gallery"
        # checksums were compared when this process, or the one that started it, first opened it
        gallery = self.gallery or stored_gallery(place, verify=False)
        if gallery is None:
            start.progress.doing = "embedding the gallery"
            gallery = Searcher.from_folder(embedder, place, batch_size=self.arguments.batch_size).gallery
        return Searcher(embedder, LockedGallery(gallery))

    def _kept(self, gallery: Gallery) -> KeptPictures | None:
        """Return where pictures of new rows are kept. Raises ConfigError where that is not said."""
        from ..serve.gallery.kept_pictures import KeptPictures
        from ..store.gallery import StoreGallery

        if not self.arguments.writable:
            return None
        if self.arguments.pictures is not None:
            return KeptPictures(self.arguments.pictures)
        if isinstance(gallery, StoreGallery):
            return KeptPictures(gallery.store.folder / "pictures")
        raise ConfigError(
            "--writable needs --pictures: the gallery is on a server, which keeps no pictures of new rows"
        )


def _for_worker(arguments: argparse.Namespace, start: Start) -> argparse.Namespace:
    """Return the options with the device of a worker: a GPU of its own, or its share of the cores."""
    if start.workers == 1 or arguments.device not in (None, "cuda", "cpu"):
        return arguments
    import torch

    if arguments.device != "cpu" and torch.cuda.is_available():
        device = f"cuda:{start.worker % torch.cuda.device_count()}"
        return argparse.Namespace(**{**vars(arguments), "device": device})
    torch.set_num_threads(max(1, torch.get_num_threads() // start.workers))
    return arguments


def model_name(arguments: argparse.Namespace) -> str:
    """Return what the model is called in requests: never a path, which is nobody's business there."""
    if arguments.served_name is not None:
        name: str = arguments.served_name
        return name
    folder = Path(arguments.model)
    return folder.resolve().name if folder.exists() else arguments.model


def _address(host: str, bound: socket.socket) -> str:
    """Return the address of a bound socket, as a browser takes it."""
    port = bound.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greet(arguments: argparse.Namespace, maker: _Maker, address: str) -> None:
    """Say what is served, where, and how to ask it."""
    name = model_name(arguments)
    rows = f", {len(maker.gallery):,} rows" if maker.gallery is not None else ""
    key = ' \\\n    -H "Authorization: Bearer $KEY"' if maker.access.has_key else ""
    sys.stdout.write(
        f"serving {name} at {address}, once it is loaded (GET /ready)\n"
        f"  the page     {address}/\n"
        f"  clients      {address}/v1 (OpenAI's), {address} (Cohere's)\n"
        f"  gallery      {arguments.gallery or 'none'}{rows}{', writable' if arguments.writable else ''}\n"
        f"  key          {'asked for' if maker.access.has_key else 'none'}\n"
        "a first request\n"
        f'  curl {address}/v1/embeddings -H "Content-Type: application/json"{key} \\\n'
        f'    -d \'{{"model": "{name}", "input": "a red shoe"}}\'\n'
    )
    sys.stdout.flush()


def _say_ready(service: Service, address: str, seconds: float) -> None:
    rows = "" if service.searcher is None else f", {len(service.searcher.gallery):,} rows"
    sys.stdout.write(f"ready after {seconds:.1f} s: {service.model_name}{rows}, at {address}\n")
    sys.stdout.flush()
