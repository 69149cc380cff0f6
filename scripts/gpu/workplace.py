"""What the sections share: the device and its peak rate, the size, a folder, and inputs made once."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.types import Item

from .measuring import peak_rate
from .models import make_model
from .sizes import Size

_WORDS = (
    "the same dress but with longer sleeves make it darker and remove the belt show two dogs instead of one running on "
    "a beach at sunset with more people in the background add a red hat and let the sky be cloudy as seen from above"
)


@dataclass
class Workplace:
    """Where and how much is measured.

    Args:
        device: on which.
        size: how much.
        folder: for models and files; what lies there already is taken as it is.
    """

    device: torch.device
    size: Size
    folder: Path

    @cached_property
    def peak(self) -> float:
        """The measured operations a second of a plain product in bfloat16."""
        return peak_rate(self.device, self.size.product)

    @property
    def dtype(self) -> str:
        """What models compute in: bfloat16 on a GPU, float32 where it may be emulated."""
        return "bfloat16" if self.device.type == "cuda" else "float32"

    def model(self, kind: str) -> Path:
        """Return the folder of a model, which is made where it is not there yet."""
        return make_model(kind, self.size, self.folder / kind, self.device)

    def embedder(self, kind: str, **options: Any) -> MLLMEmbedder:
        """Return a model on the device, loaded as a user loads it."""
        return MLLMEmbedder.from_pretrained(
            self.model(kind), **{"dtype": self.dtype, "device": self.device, "prompts": "instructcir"} | options
        )

    @cached_property
    def pictures(self) -> list[bytes]:
        """JPEG files of coarse noise, which decode like photographs."""
        width, height = self.size.shape
        rng = np.random.default_rng(0)
        return [_jpeg(rng, width, height) for _ in range(self.size.pictures)]

    @cached_property
    def items(self) -> list[Item]:
        """A gallery of the pictures, and queries that ask about them in 4 to 22 words."""
        return [*map(Document, self.pictures), *self.queries]

    @cached_property
    def queries(self) -> list[Query]:
        """The queries alone."""
        chance = random.Random(0)
        words = _WORDS.split()
        return [
            Query(self.pictures[at % len(self.pictures)], " ".join(chance.choices(words, k=chance.randint(4, 22))))
            for at in range(self.size.queries)
        ]


def _jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
    noise = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
