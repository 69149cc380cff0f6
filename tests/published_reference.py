"""Vectors of published embedders worked out plainly, from the facts of their recipes and by nothing of the library.

One input at a time: tokenise the rendered text, look at the pictures, run the stock class with stated positions, take
the stated token, normalise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from PIL import Image
from torch import Tensor

from mllm_embed.model.processor_loading import load_processor
from mllm_embed.presets import catalog

# What a processor does to pictures, by the name of its setting.
Pixels = dict[str, Any]
Resizer = Callable[[Image.Image], Image.Image]


class Reference:
    """A tiny model and its processor, as transformers alone loads them."""

    def __init__(self, folder: Path, pixels: Pixels | None = None, resize: Resizer | None = None):
        """Load from a folder. `pixels` are settings of the image processor, `resize` what comes before it."""
        self.model, processor = _loaded(folder)
        self.processor, self.resize = copy.copy(processor), resize
        self.processor.image_processor = copy.copy(processor.image_processor)
        for name, value in (pixels or {}).items():
            setattr(self.processor.image_processor, name, value)

    def inputs(self, text: str, pictures: Sequence[Image.Image] = (), **options: Any) -> dict[str, Tensor]:
        """Return model input of one rendered text; `options` go to the processor."""
        shown = [self.resize(picture) if self.resize else picture for picture in pictures]
        batch = self.processor(text=[text], images=[shown] if shown else None, return_tensors="pt", **options)
        return dict(batch)

    def ids(self, text: str, pictures: Sequence[Image.Image] = (), **options: Any) -> list[int]:
        """Return the tokens of one rendered text."""
        return self.inputs(text, pictures, **options)["input_ids"][0].tolist()

    @torch.inference_mode()
    def states(self, inputs: dict[str, Tensor], sequential: bool = False, both_ways: bool = False) -> Tensor:
        """Return the last hidden states [T, D].

        Args:
            inputs: of one text.
            sequential: number the tokens 0, 1, 2 on all axes.
            both_ways: let all tokens see each other.
        """
        given = dict(inputs)
        length = given["input_ids"].shape[1]
        if sequential:
            given["position_ids"] = torch.arange(length).expand(3, 1, length)
        if both_ways:
            if not sequential and "image_grid_thw" in given:
                names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
                axes, _ = self.model.model.get_rope_index(**{name: given[name] for name in names})
                given["position_ids"] = axes
            given["attention_mask"] = torch.zeros(1, 1, length, length)
        output = self.model(**given, output_hidden_states=True)
        # of a model without a head it is the last state that comes out, projected where the model does so
        return output.get("last_hidden_state", output.hidden_states[-1])[0]

    def vector(
        self,
        text: str,
        pictures: Sequence[Image.Image] = (),
        *,
        sequential: bool = False,
        both_ways: bool = False,
        mean: bool = False,
        behind: Sequence[int] = (),
        **options: Any,
    ) -> Tensor:
        """Return the vector [D] of one rendered text: of its last token, or the mean of all.

        Args:
            text, pictures: the input.
            sequential, both_ways: as of `states`.
            mean: average all tokens.
            behind: tokens that come after the text and are not taken.
            options: of the processor.
        """
        inputs = self.inputs(text, pictures, **options)
        length = inputs["input_ids"].shape[1]
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in inputs and behind:
                more = {"input_ids": list(behind)}.get(name, [int(name == "attention_mask")] * len(behind))
                inputs[name] = torch.cat([inputs[name], torch.tensor([more], dtype=inputs[name].dtype)], dim=1)
        states = self.states(inputs, sequential, both_ways)[:length]
        taken = states.mean(0) if mean else states[-1]
        return torch.nn.functional.normalize(taken.float(), dim=0)


@cache
def _loaded(folder: Path) -> tuple[Any, Any]:
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    return kind.from_pretrained(folder, dtype=torch.float32).eval(), load_processor(str(folder))


def small_copy(name: str, folder: Path, **changed: Any) -> Path:
    """Write a shipped preset with other pixels, which suit a tiny model, and return its file.

    Args:
        name: of the preset.
        folder: where the file is written.
        changed: what stands in the place of its keys `resize` (of settings) and `image_processor`; None takes it out.
    """
    values = yaml.safe_load((catalog.FOLDER / f"{name}.yaml").read_text())
    for key, value in changed.items():
        section = values.setdefault("settings", {}) if key == "resize" else values
        section.pop(key, None)
        section.update({} if value is None else {key: value})
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(values))
    return file
