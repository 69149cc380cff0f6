"""Whole models under names of other code, written as stock folders with their prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..files import atomic_folder, write_json
from ..inputs.chat_template import render_chat, template_of
from ..model.loading import CONFIG_FILE, load_errors
from ..presets import catalog
from ..saving.checkpoint import write_settings
from ..saving.settings import SETTINGS_FILE, Settings
from .folders import PICKLED, check_output, copied_lines, copy_small, read_config, source_folder, weight_files
from .forms import Form, Reader, read_form
from .tensors import Change, write_weights

_WORDS = "{prompt}"
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")  # a row a token


def convert_model(kind: str, name: str, output: Path, show_progress: bool | None = None) -> tuple[list[str], list[str]]:
    """Write a model under names of other code to the folder `output`, as a stock one with its prompts.

    Args:
        kind: the name of its form (forms.py).
        name: a folder or hub id.
        output: a new folder, or one of an earlier conversion.
        show_progress: None shows a bar on a terminal.

    Returns what was done, and what a user must know: values that no file gives, and in what the vectors may differ.
    Raises ModelError, and writes nothing, for a model of another form, damaged files, a pickle that holds more than
    tensors, and an output that is not free.
    """
    form = read_form(kind)
    folder = source_folder(name, PICKLED, "model*.safetensors")
    config = read_config(folder)
    form.check(name, config)
    sources = weight_files(folder, safe=True)
    check_output(output, folder, sources)
    tokenizer, added = _tokenizer(folder, form)
    with atomic_folder(output) as fresh:
        shapes = write_weights(sources, fresh, _change(form, len(tokenizer)), show_progress)
        reader = Reader(config, shapes, tokenizer)
        written, missing = _write_files(folder, fresh, form, reader)
        copied, left = copy_small(folder, fresh, [*written, *(path.name for path in sources)])
        if added:
            tokenizer.save_pretrained(fresh)
        settings, told = _settings(form, tokenizer)
        write_settings(fresh, settings, [])
    lines = [
        f"wrote {len(shapes):,} tensors to {output}, under the names of {form.config['architectures'][0]}",
        f"wrote {', '.join(written)}",
        f"wrote the prompts and settings of the preset {form.preset} to {SETTINGS_FILE}, with which it is asked",
        *copied_lines(copied, left),
        *([f"added the tokens {', '.join(added)}"] if added else []),
    ]
    return lines, [*reader.told, *missing, *told, *form.notes]


def _tokenizer(folder: Path, form: Form) -> tuple[Any, list[str]]:
    """Return the tokenizer of a folder, and which tokens it was given."""
    from transformers import AutoTokenizer

    with load_errors(str(folder)), _quiet():  # of a model_type that it does not know
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        known = tokenizer.get_vocab()
        lacking = [token for token in form.tokens if token not in known]
        tokenizer.add_tokens(lacking, special_tokens=True)
    return tokenizer, lacking


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers within."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _change(form: Form, tokens: int) -> Change:
    """Return what becomes of a tensor: its new name, and rows for tokens that the model had none for.

    Such tokens stand for pictures: the rows, zeros, are never read.
    """

    def change(old: str, tensor: Tensor) -> tuple[str, Tensor] | None:
        new = form.new_name(old)
        if new is None:
            return None
        if new.endswith(_EMBEDDINGS) and tensor.shape[0] < tokens:
            tensor = torch.cat([tensor, tensor.new_zeros(tokens - tensor.shape[0], *tensor.shape[1:])])
        return new, tensor

    return change


def _write_files(folder: Path, fresh: Path, form: Form, reader: Reader) -> tuple[list[str], list[str]]:
    """Write the config and the other files of a form; return their names, and what there is to say."""
    files: dict[str, dict[str, Any]] = {CONFIG_FILE: reader.value(form.config)}
    files |= {file: reader.value(tree) for file, tree in form.files.items()}
    for file, tree in form.merged.items():
        there = read_config(folder, file) if (folder / file).is_file() else {}
        files[file] = there | reader.value(tree)
    missing = {file: values for file, values in form.defaults.items() if not (folder / file).is_file()}
    files |= missing
    for file, values in files.items():
        write_json(fresh / file, values)
    return list(files), [f"it has no {file}: the default of its class is written" for file in missing]


def _settings(form: Form, tokenizer: Any) -> tuple[Settings, list[str]]:
    """Return the settings of a form, with the template of its tokenizer where the authors' code uses that, and what
    there is to say of it."""
    settings = catalog.preset(form.preset).settings
    if form.cut_template is None:
        return settings, []
    if not template_of(tokenizer):
        raise ModelError(
            f"the tokenizer of this {form.title} has no chat template, which its prompts need; fetch it again"
        )
    messages = [{"role": "user", "content": _WORDS}]
    whole = render_chat(tokenizer, messages, add_generation_prompt=True)
    cut, template = whole[: form.cut_template], whole[form.cut_template :]
    told = []
    if cut != tokenizer.bos_token:
        told.append(f"the authors' code cuts {cut!r} off each prompt, and not a start token: so it is done here")
    return replace(settings, prompts=replace(settings.prompts, template=template)), told
