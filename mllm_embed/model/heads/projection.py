"""What comes after pooling: a chain of dense layers, for vectors as long as another model's, or as a model was trained.

It is saved as sentence-transformers' Dense modules, one a layer, which both read: settings in JSON, weights in
safetensors (sentence-transformers 6, base/modules/dense.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import ModelError, did_you_mean, first_line
from ...files import write_json

PROJECTION_FOLDER = "projection"  # of the first layer; those of others have their number behind it
MODULE = "sentence_transformers.base.modules.dense.Dense"
MODULES_FILE = "modules.json"
# the packages in which versions of sentence-transformers have their modules
_STOCK = re.compile(r"sentence_transformers\.(?:models|base\.modules|sentence_transformer\.modules)\.(?:\w+\.)*(\w+)")
WEIGHTS, PICKLED_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_CONFIG = "config.json"
_POOLED = "sentence_embedding"  # their name of what pooling made
# torch's activations without weights or options; theirs is told apart by its full name, which may lead through any
# module of torch
ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.Identity, nn.Tanh, nn.GELU, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.Mish,
        nn.Softplus, nn.Softsign, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.ReLU6, nn.LogSigmoid, nn.Tanhshrink,
    )
}  # fmt: skip


class Dense(nn.Module):
    """A linear layer with an activation, to which its input may be added: [..., in] -> [..., out], float32."""

    def __init__(
        self, width: int, out: int, bias: bool = False, activation: str = "Identity", residual: bool = False
    ) -> None:
        """Make a layer with torch's initial weights.

        Args:
            width, out: lengths of what goes in and comes out.
            bias: whether the linear layer has one.
            activation: a name of ACTIVATIONS.
            residual: whether the input is added, through a linear layer of its own where the lengths differ.
        """
        super().__init__()
        self.linear = nn.Linear(width, out, bias=bias, dtype=torch.float32)
        self.activation = ACTIVATIONS[activation]()
        self.residual = residual
        self.shortcut = nn.Linear(width, out, bias=False, dtype=torch.float32) if residual and width != out else None

    def forward(self, vectors: Tensor) -> Tensor:
        """Return [..., out] of [..., in]."""
        found = self.activation(self.linear(vectors))
        if self.residual:
            found = found + (vectors if self.shortcut is None else self.shortcut(vectors))
        return found

    @property
    def about(self) -> dict[str, Any]:
        """Its settings as sentence-transformers writes them."""
        kind = type(self.activation)
        about = {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{kind.__module__}.{kind.__qualname__}",
        }
        return about | ({"use_residual": True} if self.residual else {})

    @property
    def weights(self) -> dict[str, Tensor]:
        """Its weights by the names of sentence-transformers."""
        found: dict[str, Tensor] = {"linear.weight": self.linear.weight}
        if self.linear.bias is not None:
            found["linear.bias"] = self.linear.bias
        if self.shortcut is not None:
            found["residual.weight"] = self.shortcut.weight
        return found

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights as they are written: float32 on the CPU."""
        return {name: weight.detach().float().cpu().contiguous() for name, weight in self.weights.items()}


class Projection(nn.Module):
    """Dense layers one after the other: [..., in] -> [..., out]. Several are a perceptron of as many layers."""

    def __init__(self, layers: Sequence[Dense]) -> None:
        """Chain layers. Raises ValueError where one does not take what the one before it gives, or there is none."""
        super().__init__()
        if not layers:
            raise ValueError("a projection has at least one layer")
        for number, (before, after) in enumerate(pairwise(layers), 2):
            if before.linear.out_features != after.linear.in_features:
                raise ValueError(
                    f"layer {number} takes {after.linear.in_features} numbers, the one before it gives "
                    f"{before.linear.out_features}"
                )
        self.layers = nn.ModuleList(layers)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return [..., out] of [..., in]."""
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors

    @property
    def dense(self) -> list[Dense]:
        """The layers."""
        return [layer for layer in self.layers if isinstance(layer, Dense)]

    @property
    def in_features(self) -> int:
        """The length of what goes in."""
        return self.dense[0].linear.in_features

    @property
    def out_features(self) -> int:
        """The length of what comes out."""
        return self.dense[-1].linear.out_features

    @property
    def identity(self) -> Iterator[bytes]:
        """Bytes that tell one projection from another; of one linear layer alone, its weights."""
        plain = len(self.layers) == 1 and _is_plain(self.dense[0])
        for layer in self.dense:
            if not plain:
                yield json.dumps(layer.about, sort_keys=True).encode()
            for tensor in layer.tensors.values():
                yield tensor.numpy().tobytes()


def _is_plain(layer: Dense) -> bool:
    return layer.linear.bias is None and isinstance(layer.activation, nn.Identity) and not layer.residual


def new_projection(width: int, out: int) -> Projection:
    """Return one linear layer [B, width] -> [B, out], float32; orthogonal, so that cosines start as they were where
    `out` is not smaller."""
    layer = Dense(width, out)
    nn.init.orthogonal_(layer.linear.weight)
    return Projection([layer])


def projection_folders(projection: Projection | None) -> list[str]:
    """Return the names of the folders that `write_projection` writes, in order."""
    count = 0 if projection is None else len(projection.layers)
    return [PROJECTION_FOLDER if number == 1 else f"{PROJECTION_FOLDER}_{number}" for number in range(1, count + 1)]


def write_projection(folder: Path, projection: Projection) -> None:
    """Write FOLDER/projection, and a folder for each further layer, as sentence-transformers reads them."""
    for name, layer in zip(projection_folders(projection), projection.dense, strict=True):
        write_json(folder / name / _CONFIG, layer.about)
        save_file(layer.tensors, folder / name / WEIGHTS)


def read_projection(folder: Path) -> Projection | None:
    """Return the projection of a saved folder, frozen; None where it has none.

    Raises ModelError, which names the place, for a damaged one, and for a layer that is not what sentence-transformers
    would make of it without a word: its activation, say, where it does not know one, is Tanh there.
    """
    home = folder / PROJECTION_FOLDER
    if not (folder / MODULES_FILE).is_file() and not home.is_dir():
        return None
    try:
        layers = []
        for place in _places(json.loads((folder / MODULES_FILE).read_text(encoding="utf-8"))):
            home = folder / place
            layers.append(_layer(home))
        return Projection(layers).requires_grad_(False) if layers else None
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, RecursionError, SafetensorError,
    ) as error:  # fmt: skip
        raise ModelError(f"{home} is damaged ({first_line(error)}); save the model again") from error


def _places(modules: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the Dense modules' folders, which sentence-transformers renames when it saves again."""
    for module in modules:
        if module_kind(module["type"]) == "Dense":
            place = PurePosixPath(module["path"])
            if place.is_absolute() or ".." in place.parts or not place.parts:
                raise ValueError(f"the path of a module is {module['path']!r}, not a folder in it")
            yield str(place)


def module_kind(full_name: str) -> str:
    """Return the class of a module of sentence-transformers by its full name, which differs between versions; "" for
    anything else."""
    found = _STOCK.fullmatch(full_name)
    return found[1] if found else ""


def _layer(home: Path) -> Dense:
    """Return a Dense module as it was saved."""
    about = json.loads((home / _CONFIG).read_text(encoding="utf-8"))
    source, target = about.get("module_input_name", _POOLED), about.get("module_output_name")
    if source != _POOLED or target not in (None, _POOLED):
        raise ModelError(
            f"{home / _CONFIG} makes {target or source} of {source}; layers that make {_POOLED} of it are read"
        )
    width, out = _length(about, "in_features"), _length(about, "out_features")
    bias, residual = _flag(about, "bias", True), _flag(about, "use_residual", False)
    with torch.device("meta"):  # sizes that are wrong take no memory
        layer = Dense(width, out, bias, _activation(about, home / _CONFIG), residual)
    _fill(layer, home)
    return layer


def _fill(layer: Dense, home: Path) -> None:
    """Give a layer the weights of a module's folder."""
    if not (home / WEIGHTS).is_file() and (home / PICKLED_WEIGHTS).is_file():
        raise ModelError(
            f"{home} has its weights in {PICKLED_WEIGHTS}, which is not read, since such files may run code: "
            f"mllm-embed convert weights {home} OUTPUT writes the {WEIGHTS} that belongs there"
        )
    given, own = load_file(home / WEIGHTS), layer.weights
    if given.keys() != own.keys():
        raise ValueError(f"it holds {', '.join(sorted(given)) or 'nothing'}, not {', '.join(sorted(own))}")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"{name} is {list(tensor.shape)}, not {list(own[name].shape)}")
    # copies, since the file is mapped into memory, and may be written anew
    tensors = {
        name.replace("residual.", "shortcut."): tensor.to(torch.float32, copy=True) for name, tensor in given.items()
    }
    layer.load_state_dict(tensors, assign=True)


def _length(about: Mapping[str, Any], key: str) -> int:
    if type(about[key]) is not int or about[key] < 1:
        raise ValueError(f"{key} is {about[key]!r}, not a whole number over 0")
    return about[key]


def _flag(about: Mapping[str, Any], key: str, default: bool) -> bool:
    value = about.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}, not true or false")
    return value


def _activation(about: Mapping[str, Any], file: Path) -> str:
    """Return the name of a module's activation in ACTIVATIONS; theirs is Tanh where the file names none."""
    full = about.get("activation_function", "torch.nn.modules.activation.Tanh")
    name = full.rpartition(".")[2] if isinstance(full, str) and full.startswith("torch.nn.") else ""
    if name not in ACTIVATIONS:
        hint = did_you_mean(name, ACTIVATIONS) if name else ""
        raise ModelError(
            f"{file} names the activation {full!r}, which sentence-transformers would replace by Tanh or run as code; "
            f"torch.nn.NAME is read, of {', '.join(ACTIVATIONS)}{hint}"
        )
    return name
