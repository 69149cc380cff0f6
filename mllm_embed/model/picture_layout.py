"""Ways to cut pictures into patches for the vision tower and tokens for the language model, counted from a config.

Layouts know no family: the records of `families.py` say which one a family has, and by which keys of its config.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError


@dataclass(frozen=True)
class PictureCost:
    """One picture as a model sees it: its tokens, its patches, and the numbers of its pixels (all channels, frames)."""

    tokens: int
    patches: int
    pixels: int


@dataclass(frozen=True)
class PictureLayout(ABC):
    """A way to cut pictures.

    Args:
        side: the key of `vision_config` that holds the side of the squares that the tower reads; None where it reads
            pictures of any size.
        frames: the key of `vision_config` that holds how many frames a patch has; None for one.
        settings: of the image processor, by its own names, where they are not as a family's usually are.
    """

    side: str | None = "image_size"
    frames: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, kw_only=True, hash=False)

    @abstractmethod
    def cost(self, config: Any, width: int, height: int) -> PictureCost:
        """Return what a picture of `width` x `height` pixels becomes in a model of this transformers config."""

    def limits(self, config: Any, known: Mapping[str, Any], low: int | None, high: int | None) -> dict[str, Any]:
        """Return the settings of an image processor by which a picture that it hands on has between `low` and `high`
        pixels, None for what is to stay as it is.

        Args:
            config: of the model, as transformers has it.
            known: the settings of its image processor, where they are known.
            low, high: pixels.

        Raises ConfigError for what this way to cut pictures does not know, and for limits that hold no picture.
        """
        raise ConfigError("this model sees every picture at a size of its own; leave min_pixels and max_pixels out")

    def pixels_a_patch(self, vision: Any) -> int:
        """Return the numbers of one patch, all channels and frames, from a `vision_config`."""
        return 3 * side_of(vision.patch_size) ** 2 * (getattr(vision, self.frames) if self.frames else 1)

    def patches_together(self, vision: Any, patches: int) -> int:
        """Return how many patches attend to one another, of an input of `patches`."""
        if self.side is None:
            return patches
        return (side_of(getattr(vision, self.side)) // side_of(vision.patch_size)) ** 2

    def _squares(self, config: Any, tokens: int, squares: int) -> PictureCost:
        vision = config.vision_config
        return PictureCost(tokens, squares * _grid(vision) ** 2, squares * 3 * side_of(vision.image_size) ** 2)


@dataclass(frozen=True)
class OneSquare(PictureLayout):
    """One square of the tower's size (LLaVA, arXiv 2304.08485).

    Args:
        tokens: the key of the config that holds a picture's tokens, where patches are pooled; None for one a patch.
    """

    tokens: str | None = None

    def cost(self, config: Any, width: int, height: int) -> PictureCost:
        """Return the cost of the square, whatever the size of the picture."""
        tokens = getattr(config, self.tokens) if self.tokens else _grid(config.vision_config) ** 2
        return self._squares(config, tokens, 1)


@dataclass(frozen=True)
class Tiles(PictureLayout):
    """Tiles and a thumbnail of the whole, pixels shuffled into fewer tokens (Idefics3, arXiv 2408.12637).

    Args:
        processor: the image processor of transformers whose arithmetic this is.
    """

    processor: str = "Idefics3ImageProcessorPil"

    def cost(self, config: Any, width: int, height: int) -> PictureCost:
        """Return the cost where the longer side becomes four tiles long, as the processors of these models do."""
        side = side_of(config.vision_config.image_size)
        usual = {"size": {"longest_edge": 4 * side}, "max_image_size": {"longest_edge": side}}
        processor = _image_processor(self.processor, **usual | dict(self.settings))
        _, rows, columns = processor.get_number_of_image_patches(height, width, {})
        one = (_grid(config.vision_config) // config.scale_factor) ** 2
        tokens = one + 3 + rows * (columns * (one + 2) + 1)  # each tile has its own marks
        return self._squares(config, tokens, rows * columns + 1)

    def limits(self, config: Any, known: Mapping[str, Any], low: int | None, high: int | None) -> dict[str, Any]:
        """Return the length to which the longer side of every picture is brought, in whole tiles: their square has no
        more pixels than `high`, nor has any picture."""
        side = side_of(config.vision_config.image_size)
        if low is not None:
            raise ConfigError("this model makes every picture as large as max_pixels allows; leave min_pixels out")
        if high is None or high < side**2:
            raise ConfigError(f"max_pixels {high} is less than one tile of {side} x {side}; give {side**2} or more")
        return {"size": {"longest_edge": math.isqrt(high) // side * side}}


@dataclass(frozen=True)
class BestGrid(PictureLayout):
    """The best of a few grids of squares and a thumbnail of the whole (LLaVA-NeXT)."""

    def cost(self, config: Any, width: int, height: int) -> PictureCost:
        """Return the cost on the grid that wastes least; the tokens of its padding are dropped."""
        side, grid = side_of(config.vision_config.image_size), _grid(config.vision_config)
        sizes = self.settings.get("image_grid_pinpoints", config.image_grid_pinpoints)
        best_height, best_width = _best_resolution(height, width, sizes)
        rows, columns = best_height // side * grid, best_width // side * grid
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        tokens = grid**2 + rows * columns + rows  # each row ends with a newline token
        return self._squares(config, tokens, best_height * best_width // side**2 + 1)

    def limits(self, config: Any, known: Mapping[str, Any], low: int | None, high: int | None) -> dict[str, Any]:
        """Raise ConfigError: the model lays its features out by the grids of its own config."""
        raise ConfigError(
            "this model cuts pictures by grids that stand in its config.json (image_grid_pinpoints) and its image "
            "processor's alike; leave min_pixels and max_pixels out, or save the base with fewer grids in both"
        )


@dataclass(frozen=True)
class AnySize(PictureLayout):
    """Pictures as large as they are, neighbouring patches merged into one token (Qwen2-VL, arXiv 2409.12191).

    Args:
        processor: the image processor of transformers whose arithmetic this is.
        fewest, most: tokens of a picture, which is made larger or smaller where it has others.
    """

    side: str | None = None
    processor: str = "Qwen2VLImageProcessorPil"
    # as the released models' preprocessor_config.json has it (max_pixels 12,845,056 of 28 x 28 a token); the class by
    # itself stops at a tenth of that
    fewest: int = 4
    most: int = 16384

    def cost(self, config: Any, width: int, height: int) -> PictureCost:
        """Return the cost of the picture at the nearest size that whole tokens fill."""
        vision = config.vision_config
        patch, merge = side_of(vision.patch_size), vision.spatial_merge_size
        pixels = (patch * merge) ** 2
        usual = {
            "patch_size": patch, "merge_size": merge,
            "size": {"shortest_edge": self.fewest * pixels, "longest_edge": self.most * pixels},
        }  # fmt: skip
        processor = _image_processor(self.processor, **usual | dict(self.settings))
        patches = processor.get_number_of_image_patches(height, width, {})
        return PictureCost(patches // merge**2, patches, patches * self.pixels_a_patch(vision))

    def limits(self, config: Any, known: Mapping[str, Any], low: int | None, high: int | None) -> dict[str, Any]:
        """Return the two limits as this processor takes them; what is not given stays as known, or as released."""
        vision = config.vision_config
        pixels = (side_of(vision.patch_size) * vision.spatial_merge_size) ** 2
        size = dict(known.get("size") or {})
        least = size.get("shortest_edge") or self.fewest * pixels if low is None else low
        most = size.get("longest_edge") or self.most * pixels if high is None else high
        if least > most or most < pixels:
            raise ConfigError(
                f"pictures of {least:,} to {most:,} pixels hold no square of {pixels:,}, which a token of this model "
                "stands for; give min_pixels and max_pixels that do"
            )
        return {"size": {"shortest_edge": least, "longest_edge": most}}


@dataclass(frozen=True)
class Budget(PictureLayout):
    """Pictures made as large as a number of tokens allows, squares of patches pooled into one token (Gemma 4).

    Args:
        tokens: the most of a picture, by the processors' default.
    """

    side: str | None = None
    tokens: int = 280

    def cost(self, config: Any, width: int, height: int) -> PictureCost:
        """Return the cost of the picture at the largest size of its shape; the tower computes the whole budget."""
        vision = config.vision_config
        pooled = vision.pooling_kernel_size**2
        patches = self.settings.get("max_soft_tokens", self.tokens) * pooled
        high, wide = _within_budget(height, width, vision, patches)
        shown = high * wide // side_of(vision.patch_size) ** 2
        return PictureCost(shown // pooled, patches, patches * self.pixels_a_patch(vision))

    def limits(self, config: Any, known: Mapping[str, Any], low: int | None, high: int | None) -> dict[str, Any]:
        """Return the most tokens of a picture, of the numbers that the model knows, that have no more pixels than
        `high`."""
        vision = config.vision_config
        pixels = (side_of(vision.patch_size) * vision.pooling_kernel_size) ** 2
        if low is not None:
            raise ConfigError("this model makes every picture as large as max_pixels allows; leave min_pixels out")
        fitting = [tokens for tokens in _BUDGETS if high is not None and tokens * pixels <= high]
        if not fitting:
            raise ConfigError(
                f"max_pixels {high} is less than {_BUDGETS[0]} tokens; give at least {_BUDGETS[0] * pixels}"
            )
        return {"max_soft_tokens": fitting[-1]}


_BUDGETS = (70, 140, 280, 560, 1120)  # tokens of a picture that Gemma 4's image processor takes


def side_of(length: Any) -> int:
    """Return a square's side, which some configs write as a pair."""
    return length[0] if isinstance(length, (list, tuple)) else length


def _grid(vision: Any) -> int:
    """Return how many patches lie along the side of the tower's square."""
    return side_of(vision.image_size) // side_of(vision.patch_size)


def _best_resolution(height: int, width: int, sizes: Sequence[Sequence[int]]) -> tuple[int, int]:
    from transformers.image_processing_utils import select_best_resolution

    return select_best_resolution((height, width), list(sizes))


def _image_processor(name: str, **options: Any) -> Any:
    import transformers

    return getattr(transformers, name)(**options)


def _within_budget(height: int, width: int, vision: Any, patches: int) -> tuple[int, int]:
    from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

    return get_aspect_ratio_preserving_size(
        height, width, side_of(vision.patch_size), patches, vision.pooling_kernel_size
    )
