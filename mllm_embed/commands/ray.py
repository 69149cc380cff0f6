"""`encode` on a Ray cluster whose machines see the same folders.

Each worker is one more process that shares the work as `extract` describes: Ray starts them where there is room, and
again when one dies. No row, vector or list of shards travels, which is why these are tasks and no Ray Data pipeline:
there would be nothing in it but numbers.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MLLMEmbedError
from .model_options import load_embedder

_RETRIES = 3


def encode_on_ray(arguments: Namespace, fields: Mapping[str, str] | None, options: Mapping[str, Any]) -> list[Any]:
    """Return what `encode_sources` gave on each worker; one of them has the store.

    `arguments` are those of `mllm-embed encode`, of which `ray` is the address of a cluster, or "local". There is a
    worker for each GPU of the cluster, or, without any, for each machine; `workers` asks for another number.

    Raises ConfigError where Ray is not installed, or there is no cluster at the address, and what a worker raises.
    """
    with _cluster(arguments.ray) as ray:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = arguments.workers or gpus or sum(node["Alive"] for node in ray.nodes())
        task = ray.remote(_work).options(num_gpus=1 if gpus else 0, num_cpus=1, max_retries=_RETRIES)
        there = _absolute(arguments)
        found = ray.get([task.remote(there, fields, options) for _ in range(count)])
    for answer in found:
        if isinstance(answer, MLLMEmbedError):
            raise answer
    return found


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Connect to a cluster, and yield the module `ray`."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError('--ray needs Ray: pip install "mllm_embed[ray]"') from error
    try:
        ray.init(
            address=None if address == "local" else address,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"no Ray cluster answers at {address} ({str(error).splitlines()[0]})") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _work(arguments: Namespace, fields: Mapping[str, str] | None, options: Mapping[str, Any]) -> Any:
    """Do a worker's part. A mistake of the user's is returned, not raised: Ray would try again what fails."""
    from ..data.sources import open_sources
    from ..store.extract import encode_sources

    try:
        listing = open_sources(arguments.sources, fields)
        return encode_sources(load_embedder(arguments), listing, arguments.output, show_progress=False, **options)
    except MLLMEmbedError as error:
        return error


def _absolute(arguments: Namespace) -> Namespace:
    """Return the arguments for a process that works in another folder."""
    there = Namespace(**vars(arguments))
    there.sources = [os.path.abspath(path) for path in arguments.sources]
    there.output = Path(os.path.abspath(arguments.output))
    for name in ("model", "adapter"):
        value = getattr(arguments, name)
        setattr(there, name, os.path.abspath(value) if value and Path(value).is_dir() else value)
    del there.run  # a function of the command line's
    return there
