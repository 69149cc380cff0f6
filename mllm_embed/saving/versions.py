"""What made a result: the versions of Python and of the packages that take part."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("mllm_embed", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "faiss-cpu", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Name -> version of Python and of every installed package of PACKAGES."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
