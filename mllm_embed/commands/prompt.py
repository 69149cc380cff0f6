"""`mllm-embed prompt`: what a model is asked, to the letter and to the token."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..yaml_text import as_yaml
from .ids import local_path

if TYPE_CHECKING:
    from ..encode.model_source import ModelSource
    from ..inputs.item_processor import ItemProcessor
    from ..inputs.prompts import PromptSet
    from ..types import Item

_HELP = """\
what it does
  Prints a prompt set as YAML: that of a model, a preset or a file. Written to a file and changed, it is a set of your
  own for --prompts. No weights are read.

  With --show it prints what the model is given: the exact text and the token ids, of the input that --image, --text,
  --instruction and --task name, or of an example of each kind; with --task alone, of each that can have one. That is
  what to look at where vectors are not what they should be.

examples
  mllm-embed prompt --preset gme > own.yaml
  mllm-embed prompt --model scripts/assets/base --show
  mllm-embed prompt --model models/gme --preset gme --show --image shoe.jpg --instruction "in blue" --task "Find it."
  mllm-embed prompt --model models/gme --prompts own.yaml --show --side document --text "a red shoe"
"""
_OF_INPUT = ("image", "text", "instruction", "task")


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    prompt = commands.add_parser(
        "prompt",
        help="show what a model is asked, to the letter and the token",
        description="Show what a model is asked, to the letter and the token.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prompt.add_argument("--model", metavar="M", help="model folder or hub id, or an adapter folder")
    prompt.add_argument("--adapter", metavar="A", help="adapter folder to put on the model")
    prompt.add_argument("--preset", metavar="P", help="preset: a name, or a YAML or JSON file")
    prompt.add_argument("--prompts", metavar="F", help="prompt set: a name, or a YAML or JSON file")
    prompt.add_argument("--show", action="store_true", help="print text and token ids; needs --model")
    prompt.add_argument("--side", choices=("query", "document"), default="query", help="of the input (default: query)")
    prompt.add_argument("--image", metavar="F", type=local_path, help="its picture")
    prompt.add_argument("--text", metavar="S", help="its text: what a document says, or a query in a picture's place")
    prompt.add_argument("--instruction", metavar="S", help="what to change in the picture or text of a query")
    prompt.add_argument("--task", metavar="S", help="its task, in the place of the prompts' own")
    prompt.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.show and arguments.model is None:
        raise ConfigError("--show needs --model: the text and tokens of a prompt depend on the model's processor")
    named = next((f"--{name}" for name in _OF_INPUT if getattr(arguments, name) is not None), None)
    if named and not arguments.show:
        raise ConfigError(f"{named} is of an input, which --show shows; give that too, or leave it out")
    source, prompts = _asked(arguments)
    if not arguments.show or source is None:
        sys.stdout.write(as_yaml(prompts.to_dict()))
        return 0
    items = _items(arguments, prompts)
    processor = _item_processor(source, prompts)
    lines = [f"prompts: {prompts.name}{_of_preset(source, prompts)}"]
    for name, item in items:
        lines += ["", *_shown(processor, name, item)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _of_preset(source: ModelSource, prompts: PromptSet) -> str:
    """Return whose prompts they are, where they are a preset's."""
    preset = source.preset
    return f", of the preset {preset.name}" if preset and prompts == preset.settings.prompts else ""


def _asked(arguments: argparse.Namespace) -> tuple[ModelSource | None, PromptSet]:
    """Return where the model lies, if there is one, and the prompts."""
    from ..inputs.prompt_files import prompt_set
    from ..presets import catalog

    given = None if arguments.prompts is None else prompt_set(arguments.prompts)
    if arguments.model is None:
        if given is None and arguments.preset is None:
            raise ConfigError("give --model, --preset or --prompts: whose prompts are to be printed?")
        if arguments.adapter is not None:
            raise ConfigError("--adapter needs --model: an adapter goes on a model")
        if given is not None and arguments.preset is not None:
            raise ConfigError(
                "--preset and --prompts name two prompt sets, and without --model one is printed; give one"
            )
        return None, given or catalog.preset(arguments.preset).settings.prompts
    from ..encode.model_source import find_model

    source = find_model(arguments.model, arguments.adapter, preset=arguments.preset)
    return source, given or source.own_settings.prompts


def _item_processor(source: ModelSource, prompts: PromptSet) -> ItemProcessor:
    from transformers import AutoConfig

    from ..encode.model_source import item_processor
    from ..model.families import check_family
    from ..model.loading import load_errors, read_config

    with load_errors(source.base):
        check_family(source.base, read_config(source.base, source.revision))
        config = AutoConfig.from_pretrained(source.base, revision=source.revision)
    settings = source.settings_for(config)
    return item_processor(source.own_processor(), replace(settings, prompts=prompts), config)


def _items(arguments: argparse.Namespace, prompts: PromptSet) -> list[tuple[str, Item]]:
    """Return the input that the options name, or an example of each kind that the prompts can ask."""
    from ..types import Document, Query

    image, text, instruction, task = arguments.image, arguments.text, arguments.instruction, arguments.task
    if image is not None or text is not None or instruction is not None:
        if arguments.side == "query":
            return [("query", Query(image, instruction, text, task))]
        if instruction is not None:
            raise ConfigError("--instruction is a query's: a document has none; leave out --side document")
        return [("document", Document(image, text, task))]
    return _examples(prompts, task)


def _examples(prompts: PromptSet, task: str | None) -> list[tuple[str, Item]]:
    """Return an input of each kind that a set can ask; with a task of each that can have one."""
    able = [(name, item) for name, item in _every_kind() if not (prompts.text_only and item.images)]
    if task is None:
        return able
    asked = [(name, replace(item, task=task)) for name, item in able]
    # where none has a place for it, showing the first says so
    return [(name, item) for name, item in asked if prompts.takes_task(item)] or asked


def _every_kind() -> list[tuple[str, Item]]:
    from PIL import Image

    from ..types import Document, Query

    grey = Image.new("RGB", (448, 448), "grey")
    return [
        ("query, picture and instruction", Query(grey, "make it red")),
        ("query, picture", Query(grey)),
        ("query, text", Query(text="a red dress")),
        ("query, text and instruction", Query(text="a red dress", instruction="without sleeves")),
        ("document, picture", Document(grey)),
        ("document, text", Document(text="a red dress")),
        ("document, picture and text", Document(grey, "a red dress")),
    ]


def _shown(processor: ItemProcessor, name: str, item: Item) -> Iterator[str]:
    """Yield the lines about an input: its task, its text, its tokens as the model gets them."""
    item, _ = processor.prepared(item)  # within the model's limit, as it is embedded
    task = processor.prompts.task(item)
    yield f"{name}{f', task {task!r}' if task else ''}"
    yield f"  text    {json.dumps(processor.render(item), ensure_ascii=False)}"
    batch = processor([item])
    ids = batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()
    yield f"  tokens  {len(ids)}"
    yield from (f"    {line}" for line in _token_lines(processor.processor.tokenizer, ids))


def _token_lines(tokenizer: Any, ids: Sequence[int]) -> Iterator[str]:
    for number, alike in groupby(ids):
        count = len(list(alike))
        times = f"  x {count:,}" if count > 1 else ""
        yield f"{number:>7}  {json.dumps(tokenizer.decode([number]), ensure_ascii=False)}{times}"
