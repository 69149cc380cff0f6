"""The model of a plan: built on the meta device from its config, so that it has every shape and no weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, device, dtype, nn

from mllm_embed.errors import ModelError
from mllm_embed.model.embedding_model import EmbeddingModel, is_part
from mllm_embed.model.families import check_family, family_of, reading_part
from mllm_embed.model.loading import CONFIG_FILE
from mllm_embed.model.lora import LoraSpec, add_lora, add_lora_like
from mllm_embed.model.pooling import Pooling
from mllm_embed.model.quantization import NF4_BLOCK
from mllm_embed.presets import unsupported
from mllm_embed.saving.settings import read_object
from mllm_embed.yaml_text import read_yaml

SHAPES = Path(__file__).parents[1] / "shapes"

# bytes a weight of a quantised linear layer. nf4 with double quantisation: 4 bits, and 0.127 bits for a scale of 8 bits
# a block and one of 32 bits for 256 of those (QLoRA, arXiv 2305.14314, section 3). int8: its scale a row is nothing.
QUANTIZED = {"nf4": (4 + 8 / NF4_BLOCK + 32 / (NF4_BLOCK * 256)) / 8, "int8": 1.0}


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters.

    Args:
        language, vision, projector: of the base's parts.
        lora: of a new adapter, on the language model.
        vision_lora: of the same, on the vision tower; 0 where it stays frozen.
        trained_projector: of the projector's copy that is trained; 0 where it stays frozen.
        token_learner: of the module that makes fewer tokens of a picture, all of it trained; 0 without one.
        projection, lexical_head: of what is trained behind the language model; 0 without.
    """

    language: int
    vision: int
    projector: int
    lora: int
    vision_lora: int
    trained_projector: int
    token_learner: int = 0
    projection: int = 0
    lexical_head: int = 0

    @property
    def base(self) -> int:
        """The parameters of the whole base."""
        return self.language + self.vision + self.projector

    @property
    def trainable(self) -> int:
        """The parameters that training changes."""
        heads = self.projection + self.lexical_head
        return self.lora + self.vision_lora + self.trained_projector + self.token_learner + heads


def locate(name: str) -> Path | None:
    """Return the folder of a model that is on this disk, be it named or in the hub's cache; None where it is not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if Path(name).exists():
        return Path(name)
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if (folder / CONFIG_FILE).is_file() else None


def find_config(name: str) -> tuple[Any, str]:
    """Return a model's transformers config and where it was found: its folder, the hub's cache, or a shipped shape.

    Nothing is fetched. Raises ModelError for a model of which none of the three has a config, and for a family that is
    not supported.
    """
    place, where = _config_place(name)
    check_family(name, read_object(place / CONFIG_FILE if place.is_dir() else place))
    return _read_config(name, place), where


def _config_place(name: str) -> tuple[Path, str]:
    """Return the folder or shape that holds a model's config, and what it is in words. Raises ModelError for none."""
    alike = _alike()
    folder, shape = locate(name), SHAPES / f"{alike.get(name, name).replace('/', '--')}.json"
    if folder:
        if not (folder / CONFIG_FILE).is_file():
            raise ModelError(f"{name} is no model folder: it has no {CONFIG_FILE}")
        return folder, f"the folder {name}" if folder == Path(name) else "the hub's cache"
    if shape.is_file():
        whose = f", that of {alike[name]}" if name in alike else ""
        return shape, f"the shapes that ship with the library{whose}"
    unsupported.check_name(name)
    parent = Path(name).parent
    if parent.is_dir() and parent != Path():  # a hub id would have to be called as a folder here
        raise ModelError(
            f"{parent} holds no {Path(name).name} yet, and no hub id {name} is known: make that model first"
        )
    known = ", ".join(sorted([*alike, *(path.stem.replace("--", "/") for path in SHAPES.glob("*.json"))]))
    raise ModelError(
        f"no config of {name}: it is no folder, not in the hub's cache, and not among the shapes that ship; "
        f"run `hf download {name} {CONFIG_FILE}`, or give one of: {known}"
    )


def _alike() -> dict[str, str]:
    """Return the models that have the shape of another to the letter, which they were trained from."""
    return read_yaml(SHAPES / "alike.yaml", "table of shapes")


def _read_config(name: str, place: Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return reading_part(AutoConfig.from_pretrained(place))
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise ModelError(f"cannot read the config of {name}: {str(error).strip().splitlines()[0]}") from error


def build(
    config: Any, lora: LoraSpec | Path, weights: dtype, pooling: Pooling = "last",
    add: Callable[[EmbeddingModel], None] = lambda model: None,
) -> tuple[EmbeddingModel, Counts]:  # fmt: skip
    """Return the embedding model with a new adapter, on the meta device, in train mode; and its numbers of parameters.

    `add_lora` chooses the layers, as it does in training; an adapter in a folder has its own. `weights` is the dtype in
    which the base is loaded; `add` puts in what else is trained.
    """
    from transformers import AutoModel

    with device("meta"):
        backbone = AutoModel.from_config(config, dtype=weights)
    backbone.to(weights)  # parts whose own config states another dtype
    model = EmbeddingModel(backbone, family_of(config), pooling)
    language, vision, projector = (_numel(backbone.named_parameters(), part) for part in _parts(model))
    if isinstance(lora, Path):
        add_lora_like(model, lora)
    else:
        add_lora(model, lora, model.family)
    add(model)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    learner, projection, words = map(_size, (model.token_learner, model.projection, model.lexical_head))
    updates = {name: count for name, count in trained.items() if "lora_" in name}
    tower = sum(count for name, count in updates.items() if is_part(name, model.family.vision))
    whole, updated = sum(trained.values()), sum(updates.values())
    rest = whole - updated - learner - projection - words
    counts = Counts(language, vision, projector, updated - tower, tower, rest, learner, projection, words)
    model.train()
    return model, counts


def _size(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def stored_bytes(model: EmbeddingModel, quantization: str | None) -> int:
    """Return the bytes of the frozen base as it lies in memory.

    `quantization` ("nf4", "int8" or None) takes the language model's linear layers alone.
    """
    linear = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    outside = model.family.vision + model.family.projector
    quantized = None if quantization is None else QUANTIZED[quantization]
    total = 0.0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        if quantized is not None and name in linear and not is_part(name, outside):
            total += parameter.numel() * quantized
        else:
            total += parameter.numel() * parameter.element_size()
    return round(total)


def _parts(model: EmbeddingModel) -> Iterator[Callable[[str], bool]]:
    """Yield tests of a parameter's name: language model, vision tower, projector. A projector may lie in the tower."""
    family = model.family
    yield lambda name: not is_part(name, family.vision + family.projector)
    yield lambda name: is_part(name, family.vision) and not is_part(name, family.projector)
    yield lambda name: is_part(name, family.projector)


def _numel(named: Iterator[tuple[str, Tensor]], wanted: Callable[[str], bool]) -> int:
    return sum(parameter.numel() for name, parameter in named if wanted(name))
