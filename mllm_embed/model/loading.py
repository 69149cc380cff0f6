"""Loading a Hugging Face image-text model: its base without the LM head, and a processor that reads pictures only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import ModelError, first_line
from .families import READING_PART, check_family, reading_part
from .patch_embedding import multiply_patches
from .quantization import cure, load_options

VIDEO = "video_processor"
VIDEO_FILE = "video_preprocessor_config.json"
# of the families whose class `AutoProcessor` cannot tell by a model's config, as that of a part of a model
_VIDEO_CLASSES = {"qwen2_5_omni_thinker": "Qwen2VLVideoProcessor"}
CONFIG_FILE = "config.json"
# a processor's files, in the order in which `AutoProcessor` looks at those that name its class
_OF_IMAGES = ("processor_config.json", "preprocessor_config.json")
_OF_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
# what damaged settings end in, deep inside
_DAMAGE = (
    ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError, MemoryError,
)  # fmt: skip
_PROBE = Image.new("RGB", (64, 64))  # any family's processor reads one
_OF_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


def load_model(
    name: str, dtype: str | torch.dtype, revision: str | None, quantization: str | None, place: torch.device
) -> Any:
    """Return the backbone of a folder or hub id, as `AutoModel.from_pretrained` gives it.

    Args:
        name: a folder or hub id.
        dtype: of the weights: a torch dtype, its name, or "auto" for the checkpoint's.
        revision: a branch, tag or commit of the hub id; None for the main branch.
        quantization: "nf4", "int8", or None for weights as they are stored.
        place: where a quantised model comes to lie; any other lies on the CPU.

    Raises ModelError for a name that is no model, a family that is not supported, and a folder that lacks weights;
    ConfigError for a quantization that does not exist or does not work here.
    """
    from transformers import AutoModel

    check_name(name)
    _check_pickles(name)
    with load_errors(name):
        check_family(name, _read_json(name, CONFIG_FILE, revision, needed=True) or {})
        options = load_options(quantization, name, dtype, place, revision) | part_options(name, revision)
        model, found = AutoModel.from_pretrained(
            name, dtype=dtype, revision=revision, output_loading_info=True, use_safetensors=True, **options
        )
    if found["missing_keys"]:
        raise ModelError(f"{name} lacks weights ({sorted(found['missing_keys'])[0]} and perhaps more); fetch it again")
    cure(model)
    multiply_patches(model)
    return model


def part_options(name: str, revision: str | None) -> dict[str, Any]:
    """Return what transformers' `from_pretrained` needs to be told, to load of a model of several parts the one that
    reads pictures and text: that one's config. Nothing for any other model."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, revision=revision)
    return {"config": reading_part(config)} if config.model_type in READING_PART else {}


def _check_pickles(name: str) -> None:
    """Raise ModelError for a folder whose weights are pickled, which are not opened."""
    if any(Path(name).glob("pytorch_model*.bin")) and not any(Path(name).glob("*.safetensors")):
        raise ModelError(
            f"the weights of {name} are pickled, and there is no model.safetensors; write them as safetensors with "
            f"`mllm-embed convert weights {name} OUTPUT` and give OUTPUT"
        )


def read_config(name: str, revision: str | None = None) -> dict[str, Any]:
    """Return the config.json of a folder or hub id; an empty one where it cannot be read, as loading will say."""
    try:
        return _read_json(name, CONFIG_FILE, revision) or {}
    except (OSError, ValueError):
        return {}


def commit_of(name: str, revision: str | None = None) -> str | None:
    """Return the commit of a hub id that lies in the cache once the model is loaded; None for a folder."""
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    if Path(name).is_dir():
        return None
    return extract_commit_hash(cached_file(name, CONFIG_FILE, revision=revision), None)


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


def check_same_tokens(folder: Path, processor: Any) -> None:
    """Raise ModelError where the tokenizer in a folder makes other tokens, or has another template, than that of its
    base, `processor`'s."""
    from transformers import AutoTokenizer

    with load_errors(str(folder)):
        own: Any = AutoTokenizer.from_pretrained(folder)
        base = processor.tokenizer
        if own.get_vocab() == base.get_vocab() and own.chat_template in (None, base.chat_template):
            return
    raise ModelError(
        f"{folder} holds a tokenizer without an image processor, and its tokens or its chat template are not those of "
        "its base: copy the base's image processor beside it, or take the tokenizer out, so that the base's is used"
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
    except _DAMAGE as error:
        raise ValueError(
            f"its image processor reads no picture ({first_line(error)}); fetch its settings again"
        ) from error


def _named_class(name: str, revision: str | None) -> Any:
    """Return the class that a processor's files name, as `AutoProcessor` finds it; None where they name none of
    transformers'."""
    from transformers import ProcessorMixin
    from transformers.models.auto.processing_auto import processor_class_from_name

    for file in (*_OF_IMAGES, "tokenizer_config.json"):
        named = (_read_json(name, file, revision) or {}).get("processor_class")
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
    nested = (_read_json(name, "processor_config.json", revision) or {}).get(VIDEO)
    return nested or _read_json(name, VIDEO_FILE, revision)


def _video_class(model: str, revision: str | None) -> dict[str, Any]:
    """Return the settings of a model's family, which are its class by name."""
    from transformers import AutoConfig
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

    family = AutoConfig.from_pretrained(model, revision=revision).model_type
    known = (VIDEO_PROCESSOR_MAPPING_NAMES.get(family) or {}).get("torchvision")
    return {"video_processor_type": _VIDEO_CLASSES.get(family, known)}


def _read_json(name: str, file: str, revision: str | None, needed: bool = False) -> dict[str, Any] | None:
    """Return a JSON file of a folder or hub id; where there is none, None, or raise OSError if it is `needed`."""
    from transformers.utils import cached_file

    path = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=needed)
    values = json.loads(Path(path).read_text(encoding="utf-8")) if path else None
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"{file} holds no JSON object; fetch the model again")
    return values


@contextmanager
def load_errors(name: str) -> Iterator[None]:
    """Raise whatever goes wrong while a model's files are read as a ModelError of one sentence."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (
        *_DAMAGE, OSError, ImportError, SafetensorError, re.error, StrictDataclassError,
    ) as error:  # fmt: skip
        raise _cannot_load(name, error) from error
    except BaseException as error:
        if not _is_of_tokenizers(error):
            raise
        raise _cannot_load(name, error) from error


def _is_of_tokenizers(error: BaseException) -> bool:
    """Return whether an error is what the Rust code of tokenizers raises for a damaged file: no kind of its own, or a
    panic."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _cannot_load(name: str, error: BaseException) -> ModelError:
    where = "" if Path(name).is_dir() else " (no such folder here, so it was taken for a hub id)"
    said = first_line(error)
    lacks = "model.safetensors" in said and not Path(name).is_dir()  # of a folder it is known: _check_pickles
    cure = f"; where they are pickled: mllm-embed convert weights {name} OUTPUT" if lacks else ""
    return ModelError(f"cannot load the model {name}{where}: {said}{cure}")


def check_name(name: str) -> None:
    """Raise ModelError for a name that is neither a model folder nor a hub id."""
    if not name:
        raise ModelError("the model's name is empty; give a folder or a hub id")
    path = Path(name)
    if path.is_dir():
        if not (path / CONFIG_FILE).is_file():
            raise ModelError(f"{name} is no model folder: it has no config.json")
    elif path.exists() or path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise ModelError(f"{name} is not a folder with a model; check the path")
