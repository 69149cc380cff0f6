"""Adapters: LoRA on the language model, on the vision tower where it is asked for, the projector trained in full."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

from ..errors import ConfigError, ModelError, first_line
from .adapter_names import fit_options, place
from .adapters.layers import check_patterns, projector_parts, target_pattern
from .embedding_model import EmbeddingModel
from .families import Family
from .quantization import quantization_of, without_kernel_advice

_NOTHING: tuple[Any, ...] = (None, False, [], {}, "")  # what an option says that asks for nothing
_OF_JSON: dict[Any, Any] = {int: (int, float), float: (int, float), bool: bool, str: str, NoneType: NoneType}
# peft's names
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED_ADAPTER = "adapter_model.bin"
_OTHER_SHAPE = re.compile(r"size mismatch for ([\w.]+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)")


@dataclass(frozen=True)
class LoraSpec:
    """The options of LoRA (arXiv 2106.09685). Patterns are ends of layers' names, or regular expressions of them.

    Args:
        rank: of the updates.
        alpha: updates are scaled by `alpha / rank`.
        dropout: on the inputs of the updates, in training.
        projector: whether the projector is trained too, in full.
        targets: patterns of the language model's layers that get an update; None for all linear ones.
        vision: whether the vision tower's linear layers get one too, or patterns of those that do.
        rank_pattern, alpha_pattern: pattern -> the rank or alpha of its layers, of which the first that fits holds.
        dora: train each layer's direction and length apart (DoRA, arXiv 2402.09353, equation 5).
        rslora: scale by `alpha / sqrt(rank)` (rsLoRA, arXiv 2312.03732, theorem 3.2).
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.05
    projector: bool = True
    targets: Sequence[str] | None = None
    vision: bool | Sequence[str] = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    dora: bool = False
    rslora: bool = False


def _check_lengths(model: EmbeddingModel, what: str) -> None:
    """Raise ConfigError on a base in 8 bits, whose layers lose their scales where peft 0.21 reads the length of their
    weights with bitsandbytes 0.50."""
    if quantization_of(model.base) == "int8":
        raise ConfigError(f"{what} does not go with int8; take nf4, or no quantization")


def import_peft() -> None:
    """Import peft for the first time, quietly: it imports bitsandbytes, which would ask for a kernel."""
    with without_kernel_advice():
        import peft  # noqa: F401


def add_lora(model: EmbeddingModel, spec: LoraSpec, family: Family) -> None:
    """Freeze `model` and wrap its backbone with a new adapter on the linear layers that `spec` chooses.

    Trainable parameters are float32 whatever the dtype of the base. Raises ModelError when nothing can be adapted,
    ConfigError for a pattern that fits no layer.
    """
    import_peft()
    from peft import LoraConfig, TaskType, get_peft_model

    if spec.dora:
        _check_lengths(model, "lora.dora")
    targets = target_pattern(model.base, family, spec.targets, spec.vision)
    check_patterns(model.base, targets, {"rank_pattern": spec.rank_pattern, "alpha_pattern": spec.alpha_pattern})
    projector = projector_parts(model.base, family) if spec.projector else []
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # peft states int, and divides whatever it is by the rank
        lora_dropout=spec.dropout,
        task_type=TaskType.FEATURE_EXTRACTION,
        target_modules=targets,
        modules_to_save=projector or None,
        rank_pattern=dict(spec.rank_pattern),
        alpha_pattern=dict(spec.alpha_pattern),
        use_dora=spec.dora,
        use_rslora=spec.rslora,
    )
    with _without_peft_warning():
        model.backbone = get_peft_model(model.backbone, config)
    _prepare(model)


def load_adapter(model: EmbeddingModel, path: str | Path, trainable: bool = False) -> None:
    """Put the adapter that is saved in folder `path` on `model`, frozen unless it is `trainable`.

    Whoever wrote it, with peft: its tensors are placed by name, those of other transformers' among them
    (adapter_names.py). Raises ModelError when the folder holds none, or it does not fit.
    """
    import_peft()
    from peft import LoraConfig, PeftModel, load_peft_weights, set_peft_model_state_dict

    check_files(path)
    with _adapter_errors(path):
        placed = place(_names_in(path), model.backbone, path)
        config = LoraConfig.from_pretrained(str(path))
        fit_options(config, placed, Path(path) / ADAPTER_CONFIG)
    if config.use_dora:
        _check_lengths(model, f"the adapter in {path} is of DoRA (use_dora), which")
    with _adapter_errors(path):
        model.backbone = PeftModel.from_pretrained(
            model.backbone, str(path), is_trainable=trainable, config=config, key_mapping=dict(placed.layout)
        )
    _check_all_used(path, model.backbone, set(placed.names.values()))
    if trainable:
        _prepare(model)
        # again, now into float32: the first time the projector was rounded to the base's dtype
        weights = load_peft_weights(str(path), device="cpu", key_mapping=dict(placed.layout))
        set_peft_model_state_dict(model.backbone, weights)


def add_lora_like(model: EmbeddingModel, path: str | Path) -> None:
    """Wrap a model with a new adapter of the shape of the one in folder `path`, to count it: no tensor of it is read.

    Raises ModelError as `load_adapter`.
    """
    import_peft()
    from peft import LoraConfig, get_peft_model

    check_files(path)
    with _adapter_errors(path):
        config = LoraConfig.from_pretrained(str(path))
        fit_options(config, place(_names_in(path), model.backbone, path), Path(path) / ADAPTER_CONFIG)
        config.inference_mode = False
        model.backbone = get_peft_model(model.backbone, config)
    _prepare(model)


def check_files(path: str | Path, name: str | None = None) -> None:
    """Raise ModelError for a folder that holds no adapter, or a pickled one, which is not opened.

    `name` is the hub id that the folder was fetched from.
    """
    called = name or path
    if not (Path(path) / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{called} holds no adapter (no {ADAPTER_CONFIG}); give the folder that training wrote")
    if not (Path(path) / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{called} holds no {ADAPTER_WEIGHTS}; where its weights are pickled, in {PICKLED_ADAPTER}, write it with "
            f"`mllm-embed convert adapter {called} OUTPUT` and give OUTPUT"
        )


def updated_layers(path: str | Path) -> list[str]:
    """Return the names, of tensors, by which an adapter's folder says which layers it has an update of."""
    return [name for name in _names_in(path) if "lora_" in name]


def _names_in(path: str | Path) -> list[str]:
    """Return the names of an adapter's tensors."""
    from safetensors import safe_open

    with safe_open(Path(path) / ADAPTER_WEIGHTS, "pt") as file:
        return list(file.keys())


def check_options(values: Mapping[str, Any], config: Path) -> None:
    """Raise ModelError where peft would take an option in the file `config` for another, or leave it out: of another
    type than its own (the word "no" is true), one that it does not know, or one that asks for tokens to wait for."""
    import_peft()
    from peft import LoraConfig

    kinds = get_type_hints(LoraConfig)
    for name, value in values.items():
        if name not in kinds and value not in _NOTHING:
            raise ModelError(f"{config} has the option {name!r}, which peft {version('peft')} does not know; update it")
        if name in kinds and not _is_a(value, kinds[name]):
            raise ModelError(f"{name} in {config} is {value!r:.60}, which is no value of it; save the adapter again")
    if values.get("alora_invocation_tokens"):
        raise ModelError(
            f"the adapter of {config} waits for tokens (alora_invocation_tokens), which no input here has; give a LoRA "
            "that is always there"
        )


def _is_a(value: Any, kind: Any) -> bool:
    """Return whether a value of JSON is of a type, as the annotations of peft's options name it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_a(value, one) for one in inner)
    if origin is Literal:  # "pissa_niter_[number of iters]" stands for many: which words there are, peft checks
        return type(value) in map(type, inner)
    if origin in (list, tuple):
        return isinstance(value, list) and all(_is_a(one, inner[0]) for one in value)
    return kind is bool if isinstance(value, bool) else isinstance(value, _OF_JSON.get(kind, dict))


@contextmanager
def _adapter_errors(path: str | Path) -> Iterator[None]:
    """Raise whatever goes wrong while an adapter is put on a model as a ModelError of one sentence."""
    from safetensors import SafetensorError

    try:
        with _without_peft_warning():
            # peft starts what its file does not hold at random, or at nothing, and goes on
            warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
            yield
    except UserWarning as warning:
        missing = re.search(r"'([^']+)'", str(warning))
        raise ModelError(
            f"the adapter in {path} does not fit this model: its {ADAPTER_CONFIG} asks for more than {ADAPTER_WEIGHTS} "
            f"holds ({missing[1] if missing else warning})"
        ) from warning
    except (
        RuntimeError, ValueError, TypeError, OSError, SafetensorError,
        # what a damaged config ends in, deep inside
        LookupError, AttributeError, ArithmeticError, ImportError, AssertionError, re.error,
    ) as error:  # fmt: skip
        raise ModelError(f"the adapter in {path} does not fit this model: {_misfit(error)}") from error


def _misfit(error: BaseException) -> str:
    """Return why an adapter cannot be put on a model, from what peft or torch says."""
    other = _OTHER_SHAPE.search(str(error))
    return f"its {other[1]} is {other[2]}, here {other[3]}: a rank, or another base" if other else first_line(error)


def _check_all_used(path: str | Path, backbone: nn.Module, saved: set[str]) -> None:
    """Raise ModelError where the file holds tensors that the config has no place for: peft leaves them out.

    `saved` are the names that its tensors have on this model.
    """
    from peft import get_peft_model_state_dict

    taken = set(get_peft_model_state_dict(backbone, save_embedding_layers=False))
    if saved - taken:
        raise ModelError(
            f"the adapter in {path} does not fit this model: {ADAPTER_WEIGHTS} holds more than its {ADAPTER_CONFIG} "
            f"takes ({min(saved - taken)})"
        )


@contextmanager
def _without_peft_warning() -> Iterator[None]:
    """Silence peft 0.21, which asks transformers 5 for an attribute under its old name each time it wraps a model."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def _prepare(model: EmbeddingModel) -> None:
    """Keep what is trained in float32, whatever the dtype of the frozen base."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
