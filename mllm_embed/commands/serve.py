"""`mllm-embed serve`: a model, and a gallery where there is one, behind HTTP."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .ids import local_path
from .model_options import add_model_options, load_embedder

if TYPE_CHECKING:
    import socket

    from ..encode.embedder import MLLMEmbedder
    from ..serve.limits import Limits
    from ..serve.operations.making import Making
    from ..serve.operations.server import Start
    from ..serve.service import Service

_EXTRA = ("fastapi", "uvicorn", "httptools", "prometheus_client", "httpx", "python_multipart")
_LOOPBACK = "127.0.0.1"
_MOST_MIB, _MOST_INPUTS = 1 << 14, 1 << 20  # of a request, which is held in memory
_LONGEST = 86_400  # seconds
_HELP = """\
what it does
  Answers over HTTP in the forms that people's clients speak, so that they need no client of ours:
    POST /v1/embeddings         OpenAI's, vLLM's with pictures, Jina's
    POST /v2/embed              Cohere's
    POST /v1/rerank /v2/rerank  Jina's, vLLM's and Cohere's, by the re-ranker of --reranker
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
  Pictures come within a request. Addresses are fetched from hosts that --allow-host names, and from no other:
    images.example.org, images.example.org:8443, *.example.org, or images.example.org=10.1.2.3 for one of your network.

examples
  mllm-embed serve --model runs/merged
  mllm-embed serve runs/photos --model runs/base --adapter runs/stage2 --port 9000
  mllm-embed serve photos --model runs/merged --log text
  mllm-embed serve runs/photos --model runs/merged --writable --allow-host images.example.org
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
    serve.add_argument(
        "--served-name", metavar="N", help="the model's name in requests (default: hub id or folder, +adapter)"
    )
    serve.add_argument(
        "--rerank",
        action="store_true",
        help="let searches ask the model to put answers in order; keeps its adapter apart, which computes slower",
    )
    serve.add_argument(
        "--reranker",
        metavar="R",
        help="folder or hub id of a re-ranker that puts answers in order, in the place of the model's own base",
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
    running.add_argument(
        "--log",
        choices=("json", "text"),
        help="a line a request on stderr, as this (default: text on a terminal, json elsewhere)",
    )
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
    from ..serve.operations.making import GallerySettings, Making
    from ..serve.operations.server import Plan, listen, serve

    _check(arguments)
    access = Access.of(arguments.key_file, os.environ.get(KEY_VARIABLE), arguments.known_as)
    access.check_address(arguments.host, arguments.no_key)
    limits = _limits(arguments)
    making = Making(
        _LoadModel(arguments),
        _model_name(arguments),
        access,
        limits,
        GallerySettings(arguments.gallery, arguments.writable, arguments.pictures),
        force_dimensions=arguments.force_dimensions,
        hosts=[AllowedHost.of(host) for host in arguments.allow_host],
        batch_size=arguments.batch_size,
        max_wait=arguments.max_wait / 1000,
        reranker=arguments.reranker,
        reranker_name=_called(arguments.reranker) if arguments.reranker else "reranker",
    )
    making.open(arguments.workers)
    plan = Plan(making, access, limits, arguments.log or _log_form(), arguments.workers)
    with listen(arguments.host, arguments.port) as bound:
        address = _address(arguments.host, bound)
        _greet(making, address)
        if arguments.workers > 1:
            from ..serve.operations.workers import serve_with_workers

            serve_with_workers(plan, bound)
            return 0
        began = time.monotonic()
        serve(plan, bound, lambda service: _say_ready(service, address, time.monotonic() - began))


def _check(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for options that are none, or do not fit together."""
    if arguments.workers < 1:
        raise ConfigError(f"--workers must be at least 1, not {arguments.workers}")
    if arguments.served_name is not None and not arguments.served_name.isprintable():
        raise ConfigError(f"--served-name {arguments.served_name!r} has characters that cannot be printed")
    if not 0 <= arguments.port < 1 << 16:
        raise ConfigError(f"--port must be 0 to 65535, not {arguments.port}")
    for option, value, most in (
        ("--max-body-mib", arguments.max_body_mib, _MOST_MIB),
        ("--max-inputs", arguments.max_inputs, _MOST_INPUTS),
        ("--timeout", arguments.timeout, _LONGEST),
    ):
        if not 0 < value <= most:
            raise ConfigError(f"{option} must be more than 0 and at most {most:,}, not {value:g}")
    if not 0 <= arguments.max_wait <= 1000:
        raise ConfigError(f"--max-wait must be 0 to 1000 milliseconds, not {arguments.max_wait:g}")
    if arguments.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, not {arguments.batch_size}")


def _limits(arguments: argparse.Namespace) -> Limits:
    from ..serve.limits import Limits

    limits = Limits(body=arguments.max_body_mib << 20, inputs=arguments.max_inputs, seconds=arguments.timeout)
    return limits if arguments.max_pixels is None else replace(limits, pixels=arguments.max_pixels)


@dataclass
class _LoadModel:
    """Loads the model that the options name; a worker's process is sent this."""

    arguments: argparse.Namespace

    def __call__(self, start: Start) -> MLLMEmbedder:
        """Return the model. Raises as `load_embedder` does."""
        if not sys.stderr.isatty():
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()  # whoever collects lines of JSON cannot read it
        apart = self.arguments.rerank or self.arguments.reranker is not None
        return load_embedder(_for_worker(self.arguments, start), merge=not apart)


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


def _model_name(arguments: argparse.Namespace) -> str:
    """Return what the model is called in requests: never a path, which is nobody's business there."""
    if arguments.served_name is not None:
        name: str = arguments.served_name
        return name
    # two adapters on one base make different vectors
    parts = [arguments.model] if arguments.adapter is None else [arguments.model, arguments.adapter]
    return "+".join(map(_called, parts))


def _called(place: str) -> str:
    """Return the name of a folder or a hub id."""
    return Path(place).resolve().name if Path(place).exists() else str(place)


def _log_form() -> str:
    """Return the form of the log where none was asked for: who reads it, a person or a program."""
    return "text" if sys.stderr.isatty() else "json"


def _address(host: str, bound: socket.socket) -> str:
    """Return the address of a bound socket, as a browser takes it."""
    port = bound.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greet(making: Making, address: str) -> None:
    """Say what is served, where, and how to ask it."""
    from ..search.places import shown_place

    name, key = making.model_name, ""
    gallery = "none" if making.gallery.place is None else shown_place(making.gallery.place)
    rows = "" if making.rows is None else f", {making.rows:,} rows"
    if making.access.has_key:
        key = ' \\\n    -H "Authorization: Bearer $KEY"'
    sys.stdout.write(
        f"serving {name} at {address}, once it is loaded (GET /ready)\n"
        f"  the page     {address}/\n"
        f"  clients      {address}/v1 (OpenAI's), {address} (Cohere's)\n"
        f"  gallery      {gallery}{rows}{', writable' if making.gallery.writable else ''}\n"
        f"  key          {'asked for' if key else 'none'}\n"
        "a first request\n"
        f'  curl {address}/v1/embeddings -H "Content-Type: application/json"{key} \\\n'
        f'    -d \'{{"model": "{name}", "input": "a red shoe"}}\'\n'
    )
    sys.stdout.flush()


def _say_ready(service: Service, address: str, seconds: float) -> None:
    rows = "" if service.searcher is None else f", {len(service.searcher.gallery):,} rows"
    sys.stdout.write(f"ready after {seconds:.1f} s: {service.model_name}{rows}, at {address}\n")
    sys.stdout.flush()
