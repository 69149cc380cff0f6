"""Loading the processor of a Hugging Face image-text model, without the part that reads videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import ModelError, first_line
from .loading import DAMAGE, check_name, load_errors, read_json_of

VIDEO = "video_processor"
VIDEO_FILE = "video_preprocessor_config.json"
# of the families whose class `AutoProcessor` cannot tell by a model's config, as that of a part of a model
_VIDEO_CLASSES = {"qwen2_5_omni_thinker": "Qwen2VLVideoProcessor"}
# a processor's files, in the order in which `AutoProcessor` looks at those that name its class
_OF_IMAGES = ("processor_config.json", "preprocessor_config.json")
_OF_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_OF_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
_PROBE = Image.new("RGB", (64, 64))  # any family's processor reads one


def load_processor(name: str, revision: str | None = None, base: str | None = None) -> Any:
    """Return the processor of a folder or hub id, without the part that reads videos.

    transformers' video processors need torchvision, and so does `AutoProcessor` for a family that has one. What is
    saved from here still names the family's own class and keeps the video settings, so that `AutoProcessor` reads it
    where torchvision is there.

    Args:
        name: a folder or hub id; with `base` an adapter's folder, which has no config of its own.
        revision: a branch, tag or commit of the hub id, or of `base`'s.
        base: the model that an adapter belongs to.

    Raises ModelError as `load_model`, and for an adapter folder that holds a part of a processor only.
    """
    if base is None:
        check_name(name)
    else:
        _check_whole(Path(name))
    with load_errors(name):
        _check_template(Path(name) / "chat_template.jinja")
        processor = _open_processor(name, base or name, revision)
        _complete(processor, base or name, revision)
        _check_pictures(processor)
    if not hasattr(processor, "tokenizer"):
        raise ModelError(f"{name} is no image-text model: its processor has no tokenizer beside its image processor")
    tokenizer = processor.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # padding is masked, whatever it is
    if tokenizer.pad_token is None:
        raise ModelError(f"the tokenizer of {name} has neither a pad nor an eos token; give it one and save it again")
    # the processor's is the one that is used: the tokenizer would save another one in its place
    tokenizer.chat_template = processor.chat_template
    return processor


def has_processor(folder: Path) -> bool:
    """Return whether a folder holds the files of a processor, or some of them."""
    return any((folder / name).is_file() for name in (*_OF_TOKENIZER, *_OF_IMAGES, *_OF_TEMPLATES))


def has_tokenizer_alone(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer without an image processor, as trainers save it beside an adapter."""
    return any((folder / name).is_file() for name in _OF_TOKENIZER) and not any(
        (folder / name).is_file() for name in _OF_IMAGES
    )


def _check_whole(folder: Path) -> None:
    """Raise ModelError for a folder with the tokenizer alone, or the image processor, which another would complete."""
    for files in (_OF_TOKENIZER, _OF_IMAGES):
        if not any((folder / name).is_file() for name in files):
            raise ModelError(
                f"{folder} holds a part of a processor, but no {files[0]}: copy what is missing from its base, or take "
                "that part out, so that the base's processor is used"
            )


def check_fits(processor: Any, name: str, model: Any, base: str, revision: str | None) -> None:
    """Raise ModelError where the tokens of the processor of `name` are not those of a loaded model, `base`."""
    rows = model.get_input_embeddings().weight.shape[0]
    last = max(processor.tokenizer.get_vocab().values())
    # the base's own may have tokens, too, that are never used
    if last >= rows and last > max(load_processor(base, revision).tokenizer.get_vocab().values()):
        raise ModelError(
            f"the tokenizer of {name} has a token {last}, and the model embeds {rows} tokens, from 0 on: it belongs to "
            "another model; give that one as the base, or save the processor again"
        )
    wanted = getattr(model.config, "image_token_id", None)
    shown = set(getattr(processor, "image_token_ids", None) or ()) - {None}
    if wanted is not None and shown and wanted not in shown:
        raise ModelError(
            f"the processor of {name} marks pictures by the token {min(shown)}, the model looks for {wanted}: they do "
            "not belong together; save the processor again"
        )


def _open_processor(name: str, model: str, revision: str | None) -> Any:
    from transformers import AutoConfig, AutoProcessor, ProcessorMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    own = revision if name == model else None
    kind: Any = _named_class(name, own)
    if kind is None:
        kind = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(model, revision=revision)), AutoProcessor)
    # transformers chooses a tokenizer's class by the model's family, which an adapter's folder does not tell: by the
    # class that is named there alone, Llama's for instance, some texts become other tokens
    options = {} if name == model else {"config": AutoConfig.from_pretrained(model, revision=revision)}
    if not issubclass(kind, ProcessorMixin) or VIDEO not in kind.get_attributes():
        return kind.from_pretrained(name, revision=own, **options)
    processor = without_video(kind).from_pretrained(name, revision=own, **options)
    processor.video_settings = _video_settings(name, own) or _video_class(model, revision)
    return processor


def _complete(processor: Any, model: str, revision: str | None) -> None:
    """Give a processor what it counts a picture's tokens by, where its files are older than that: then one token stood
    for a picture, and the model put as many features in its place as its config says."""
    from transformers import AutoConfig

    if getattr(processor, "patch_size", 0) is not None:
        return
    config = AutoConfig.from_pretrained(model, revision=revision)
    size = getattr(getattr(config, "vision_config", None), "patch_size", None)
    strategy = getattr(config, "vision_feature_select_strategy", None)
    if size is not None and strategy is not None:
        processor.patch_size, processor.vision_feature_select_strategy = size, strategy
        processor.num_additional_image_tokens = int(strategy == "default")  # which leaves out the one that there is


def _check_template(file: Path) -> None:
    """Raise ValueError for an empty chat template, which would count as none."""
    if file.is_file() and not file.read_text(encoding="utf-8").strip():
        raise ValueError(f"{file.name} is empty; fetch it again, or remove it where the model has none")


def _check_pictures(processor: Any) -> None:
    """Raise ValueError for an image processor that reads no picture, or has a setting that would count as true for not
    being empty."""
    pictures = getattr(processor, "image_processor", None)
    if pictures is None:
        return
    for key, value in vars(pictures).items():
        if isinstance(getattr(type(pictures), key, None), bool) and not (value is None or isinstance(value, bool)):
            raise ValueError(f"{key} of its image processor is {value!r}, not true or false")
    try:
        pictures([_PROBE], return_tensors="pt")
    except DAMAGE as error:
        raise ValueError(
            f"its image processor reads no picture ({first_line(error)}); fetch its settings again"
        ) from error


def _named_class(name: str, revision: str | None) -> Any:
    """Return the class that a processor's files name, as `AutoProcessor` finds it; None where they name none of
    transformers'."""
    from transformers import ProcessorMixin
    from transformers.models.auto.processing_auto import processor_class_from_name

    for file in (*_OF_IMAGES, "tokenizer_config.json"):
        named = (read_json_of(name, file, revision) or {}).get("processor_class")
        if named:
            kind = processor_class_from_name(named)
            return kind if isinstance(kind, type) and issubclass(kind, ProcessorMixin) else None
    return None


def without_video(kind: Any) -> Any:
    """Return a subclass of a family's processor class, under the same name, with all parts but the video processor."""
    from transformers import ProcessorMixin

    parts = kind.get_attributes()
    place = parts.index(VIDEO)

    class WithoutVideo(ProcessorMixin):
        # comes after `kind` in the order of inheritance: it gets what `kind` hands on to ProcessorMixin
        def __init__(self, *given: Any, **options: Any):
            options |= dict(zip(parts, given, strict=False))
            options.pop(VIDEO, None)
            super().__init__(**options)

    class ImageOnly(kind):
        video_settings: dict[str, Any] | None = None

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [*parts[:place], *parts[place + 1 :]]

        @classmethod
        def _get_arguments_from_pretrained(cls, *given: Any, **options: Any) -> list[Any]:
            # `kind` takes its parts by their places: None stands in that of the video processor
            arguments = super()._get_arguments_from_pretrained(*given, **options)
            return [*arguments[:place], None, *arguments[place:]]

        def save_pretrained(self, save_directory: str, **options: Any) -> Any:
            saved = super().save_pretrained(save_directory, **options)
            (Path(save_directory) / VIDEO_FILE).write_text(json.dumps(self.video_settings or {}, indent=2))
            return saved

    return type(kind.__name__, (ImageOnly, WithoutVideo), {})


def _video_settings(name: str, revision: str | None) -> dict[str, Any] | None:
    """Return those of the folder, wherever its version of transformers put them."""
    nested = (read_json_of(name, "processor_config.json", revision) or {}).get(VIDEO)
    return nested or read_json_of(name, VIDEO_FILE, revision)


def _video_class(model: str, revision: str | None) -> dict[str, Any]:
    """Return the settings of a model's family, which are its class by name."""
    from transformers import AutoConfig
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

    family = AutoConfig.from_pretrained(model, revision=revision).model_type
    known = (VIDEO_PROCESSOR_MAPPING_NAMES.get(family) or {}).get("torchvision")
    return {"video_processor_type": _VIDEO_CLASSES.get(family, known)}
