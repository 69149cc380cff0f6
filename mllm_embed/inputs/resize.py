"""What becomes of a picture on its way to the model: another size before the model's image processor, and how that
processor is set."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import ConfigError, DataError, did_you_mean, first_line
from ..model.loading import DAMAGE
from ..model.picture_layout import side_of
from .images import MAX_PIXELS

if TYPE_CHECKING:
    from .item_processor import ItemProcessor

Size = tuple[int, int]
_FEWEST, _MOST = 4, 16384  # patches of `factor` pixels square, where limits are not given, as in qwen-vl-utils
_RATIO = 200
_SIZES, _LIMITS = ("to", "under_to"), ("min_pixels", "max_pixels")
_PROBE, _SHOWN = (64, 64), 200
_MORE = 1.3  # a model that looks at tiles sees the whole picture besides


@dataclass(frozen=True)
class Resize:
    """The size that pictures are given before the model's image processor, where a model was trained so.

    What is asked for is done in this order, each with PIL's bicubic filter:

    Args:
        to: the width and height to which pictures are squashed, whatever shape they have.
        over: squash only pictures with a side of more pixels than this.
        under, under_to: a picture with a side of fewer pixels than `under` gets the width and height `under_to`.
        factor: both sides become multiples of it, about in their ratio (`smart_resize` of qwen-vl-utils).
        min_pixels, max_pixels: between which the picture then has its pixels; by default 4 and 16,384 squares of
            `factor`.
        refused_ratio: a picture whose sides differ by more than this ratio is refused; None for none. With `factor`.
        capped_ratio: sides that differ by more, once they are multiples, are cut to this ratio, as some models' copies
            of `smart_resize` do; None where they are not. With `factor`.

    Source: QwenLM/Qwen3-VL, qwen-vl-utils/src/qwen_vl_utils/vision_process.py (`refused_ratio` alone); the copy in
    360CVGroup/RzenEmbed, rzen_embed_inference.py, has `capped_ratio` alone, that of Code-kunkun/LamRA both. `to`,
    `over` and `under`: TIGER-AI-Lab/VLM2Vec, src/data/dataset/mmeb_dataset.py and src/model/processor.py.

    Raises ConfigError for values that do not go together.
    """

    to: Size | None = None
    over: int | None = None
    under: int | None = None
    under_to: Size | None = None
    factor: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    refused_ratio: int | None = _RATIO
    capped_ratio: int | None = None

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, value := tuple(value))
            if value is not None and not _is_size(value):
                raise ConfigError(f"resize.{name} is {value!r}, not a width and a height of a picture")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in _SIZES and value is not None and not (type(value) is int and value > 0):
                raise ConfigError(f"resize.{field.name} is {value!r}, not a whole number over 0")
        self._check_together()

    def _check_together(self) -> None:
        if self.to is None and self.under is None and self.factor is None:
            raise ConfigError("resize changes no picture; give it to, under and under_to, or factor")
        if self.over is not None and self.to is None:
            raise ConfigError("resize has over, and not the size to which larger pictures are squashed; give to")
        if (self.under is None) != (self.under_to is None):
            raise ConfigError("resize has one of under and under_to; give both, or neither")
        given = next((name for name in (*_LIMITS, "capped_ratio") if getattr(self, name) is not None), None)
        if self.factor is not None:
            self._check_limits(self.factor)
        elif given:
            raise ConfigError(f"resize has {given}, which goes with factor; give factor too")

    def _check_limits(self, factor: int) -> None:
        low, high = self._limits(factor)
        if not factor**2 <= high <= MAX_PIXELS or low > high:
            raise ConfigError(
                f"resize keeps pictures between {low:,} and {high:,} pixels, in squares of {factor}; give limits that "
                f"hold a square, up to {MAX_PIXELS:,} pixels"
            )

    def size(self, width: int, height: int) -> Size:
        """Return the width and height that a picture is given. Raises ValueError for one that has none."""
        if self.to and (self.over is None or max(width, height) > self.over):
            width, height = self.to
        if self.under is not None and self.under_to and min(width, height) < self.under:
            width, height = self.under_to
        return (width, height) if self.factor is None else self._fitted(width, height, self.factor)

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return a picture at its size, itself where it has that already. Raises ValueError as `size` does."""
        size = self.size(*picture.size)
        return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)

    def _limits(self, factor: int) -> tuple[int, int]:
        low = _FEWEST * factor**2 if self.min_pixels is None else self.min_pixels
        return low, _MOST * factor**2 if self.max_pixels is None else self.max_pixels

    def _fitted(self, width: int, height: int, factor: int) -> Size:
        """Return sides that are multiples of `factor`, within the limits."""
        if self.refused_ratio and max(width, height) / min(width, height) > self.refused_ratio:
            raise ValueError(f"its sides are {width} and {height}, of a ratio over {self.refused_ratio}")
        low, high = self._limits(factor)
        # `round` takes halves to the even neighbour, as the source does
        across, down = (max(factor, round(side / factor) * factor) for side in (width, height))
        if across * down > high:
            shrink = math.sqrt(height * width / high)
            across, down = (math.floor(side / shrink / factor) * factor for side in (width, height))
        elif across * down < low:
            grow = math.sqrt(low / (height * width))
            across, down = (math.ceil(side * grow / factor) * factor for side in (width, height))
        if not across * down:
            raise ValueError(f"its sides are {width} and {height}: made {high:,} pixels, one has less than {factor}")
        if self.capped_ratio:
            across, down = min(across, down * self.capped_ratio), min(down, across * self.capped_ratio)
        return across, down

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, as plain JSON: the values that are not the default."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {field.name: plain[field.name] for field in fields(self) if plain[field.name] != field.default}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Resize:
        """Return what `to_dict` wrote, or a file says. Raises ConfigError, which names the key, for anything else."""
        known = [field.name for field in fields(cls)]
        unknown = next((key for key in values if key not in known), None)
        if unknown is not None:
            raise ConfigError(f"resize.{unknown} is no key of it" + did_you_mean(str(unknown), known))
        return cls(**values)


def _is_size(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) != 2 or not all(type(side) is int and side > 0 for side in value):
        return False
    return math.prod(value) <= MAX_PIXELS


def with_picture_settings(processor: Any, settings: Mapping[str, Any]) -> Any:
    """Return a processor whose image processor has some settings by its own names; it is changed in place.

    Older names of a setting, such as min_pixels of Qwen2-VL, mean what the installed transformers makes of them. They
    are saved with the processor.

    Args:
        processor: a Hugging Face processor.
        settings: values by name, as plain JSON.

    Raises ConfigError for a name that this image processor does not have, and for a value that it cannot use.
    """
    pictures = processor.image_processor
    kind, name, before = type(pictures), type(pictures).__name__, pictures.to_dict()
    known = _settings_of(pictures)
    for key, value in settings.items():
        _check_setting(key, value, name, known, before.get(key))
    values = {key: value for key, value in before.items() if key in known} | dict(settings)
    try:
        changed = kind(**values)
        changed([Image.new("RGB", _PROBE)], return_tensors="pt")
    except DAMAGE as error:
        shown = ", ".join(f"{key}: {value!r}" for key, value in settings.items())[:_SHOWN]
        raise ConfigError(f"{name} reads no picture with {shown} ({first_line(error)}); give other values") from error
    # what other parts of a processor have put there stays
    vars(changed).update({key: value for key, value in vars(pictures).items() if key not in vars(changed)})
    processor.image_processor = changed
    return processor


def check_agrees(config: Any, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a setting of an image processor that a model's config has too, and otherwise: the model
    lays out what it sees by its own."""
    for key, value in settings.items():
        own = getattr(config, key, value)
        if json.dumps(own, default=str) != json.dumps(value, default=str):
            raise ConfigError(
                f"{key} of the image processor is to be {value!r}, and the model, which lays out what it sees by its "
                f"own config, has {own!r}; change config.json too, or leave it"
            )


def warn_of_lost_pixels(items: ItemProcessor, config: Any) -> None:
    """Warn where JPEGs that `jpeg_side` makes smaller have fewer pixels, or become fewer tokens, than the model would
    see of whole ones.

    Args:
        items: of the model.
        config: of its base, as transformers has it.
    """
    side = items.jpeg_side
    if side is None or (2 * side) ** 2 > MAX_PIXELS:  # no picture is made smaller
        return
    scaled, whole, shown = (
        items.picture_tokens(side, side),
        items.picture_tokens(2 * side, 2 * side),
        _least(items, config),
    )
    if scaled < whole:
        lost = f"a JPEG of {2 * side} x {2 * side} pixels becomes {scaled:,} tokens, and {whole:,} when decoded whole"
    elif shown > _MORE * side**2:
        lost = f"this model brings pictures to {shown:,} pixels or more, which scaled JPEGs need not have"
    else:
        return
    warnings.warn(f"jpeg_side is {side}: {lost}; give a larger one, unless it is worth that", stacklevel=2)


def _least(items: ItemProcessor, config: Any) -> int:
    """Return how many pixels a small picture has when a model is shown it; 0 where that cannot be told."""
    try:
        batch = items.batch([items.filled(("image", ""), 1, {})], [[Image.new("RGB", _PROBE)]])
        patches = batch["pixel_values"].numel() // items.family.pictures.pixels_a_patch(config.vision_config)
        return patches * side_of(config.vision_config.patch_size) ** 2
    except (DataError, KeyError, AttributeError):
        return 0


def _check_setting(key: str, value: Any, name: str, known: Collection[str], before: Any) -> None:
    if key not in known:
        hint = did_you_mean(str(key), known) or f"; it has {', '.join(sorted(known))}"
        raise ConfigError(f"{name} has no setting '{key}'{hint}")
    if isinstance(before, bool) and not isinstance(value, bool):
        raise ConfigError(f"{key} of {name} is {value!r}, not true or false")


def _settings_of(pictures: Any) -> set[str]:
    """Return the names of an image processor's settings: those that are set, and its class's own, which have names by
    which some of the others were once called."""
    from transformers.processing_utils import ImagesKwargs

    kind = type(pictures)
    own = set(kind.valid_kwargs.__annotations__) - set(ImagesKwargs.__annotations__)
    # a setting that every class takes means nothing to a class that has not set it
    return own | (set(pictures.to_dict()) & set(kind.valid_kwargs.__annotations__))
