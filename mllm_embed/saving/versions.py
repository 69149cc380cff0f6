"""The versions of Python and of the packages that take part in a result."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from .. import __version__

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "faiss-cpu", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Return name -> version of Python, of this library, and of every installed package of PACKAGES."""
    found = {"python": platform.python_version(), "mllm_embed": __version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
