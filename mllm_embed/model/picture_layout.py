"""Ways to cut pictures into patches for the vision tower and tokens for the language model, counted from a config.

Layouts know no family: the records of `families.py` say which one a family has, and by which keys of its config.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


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
        high, wide = _within_budget(height, width, vision, self.tokens * pooled)
        shown, patches = high * wide // side_of(vision.patch_size) ** 2, self.tokens * pooled
        return PictureCost(shown // pooled, patches, patches * self.pixels_a_patch(vision))


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
