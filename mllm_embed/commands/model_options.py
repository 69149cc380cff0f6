"""The options by which every command line names a model, and the model that they name."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..model.quantization import QUANTIZATIONS

if TYPE_CHECKING:
    from ..encode.dual_encoder import DualEncoder
    from ..encode.embedder import MLLMEmbedder
    from ..inputs.prompts import PromptSet
    from ..presets.preset import Preset

MODEL_DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_model_options(parser: argparse.ArgumentParser, required: bool = True, lexical: bool = False) -> None:
    """Add --model, --adapter, --preset, --prompts, --batch-size, --device, --dtype, --quantization, --dim,
    --max-tokens, --truncate, --jpeg-side, --thoughts and --thought-cache; --lexical-words for a command whose vectors
    may be `lexical` too."""
    parser.add_argument("--model", required=required, metavar="M", help="model folder or hub id, or an adapter folder")
    parser.add_argument("--adapter", metavar="A", help="adapter folder to put on the model")
    add_loading_options(parser)
    if lexical:
        parser.add_argument(
            "--lexical-words",
            metavar="N",
            type=int,
            help="make lexical vectors too, of so many words at most; 0: none (default: as saved, or 0)",
        )


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """Add those of `add_model_options` that say how a model is loaded and asked, and not which one."""
    parser.add_argument(
        "--preset",
        metavar="P",
        help="how a published embedder is asked and pooled: a name that `mllm-embed presets` lists, or a YAML or JSON "
        "file (default: that of the hub id, where there is one)",
    )
    parser.add_argument(
        "--prompts", metavar="F", help="prompt set: a name, or a YAML or JSON file (default: as saved, or the preset's)"
    )
    parser.add_argument(
        "--batch-size",
        metavar="B",
        type=int,
        default=32,
        help="inputs of 256 tokens at once (default 32)",
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: the GPU where there is one)")
    parser.add_argument(
        "--dtype",
        choices=MODEL_DTYPES,
        default="auto",
        help="default: auto, as stored in the model, but float32 on a CPU without bfloat16 instructions",
    )
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="keep the language model's weights in 4 or 8 bits (default: as --dtype says)",
    )
    parser.add_argument("--dim", metavar="D", type=int, help="cut vectors to their first D numbers (matryoshka)")
    parser.add_argument(
        "--max-tokens",
        metavar="N",
        type=int,
        help="tokens of an input at most, prompt and pictures included (default: as saved, or the model's positions)",
    )
    parser.add_argument(
        "--truncate",
        action=argparse.BooleanOptionalAction,
        help="cut the words of a longer input, instead of listing it as unreadable (default: as saved)",
    )
    parser.add_argument(
        "--jpeg-side",
        metavar="N",
        type=int,
        help="decode JPEG files at 1/8, 1/4 or 1/2 of their size, the smallest whose sides both have N pixels: faster "
        "for large photographs, and other vectors, which go only with their like; 0: whole (default: as saved, or 0)",
    )
    parser.add_argument(
        "--thoughts",
        metavar="N",
        type=int,
        help="let the model write what a query of picture and instruction looks for, in so many tokens at most, before "
        "it embeds it; 0: not (default: as saved, or 0)",
    )
    parser.add_argument(
        "--thought-cache", metavar="F", type=Path, help="file of thoughts, so that none is thought twice"
    )


def add_query_options(parser: argparse.ArgumentParser) -> None:
    """Add --query-model and --query-adapter, for composed queries by a small model that was distilled from --model."""
    parser.add_argument("--query-model", metavar="M", help="small model for composed queries, distilled from --model")
    parser.add_argument("--query-adapter", metavar="A", help="adapter folder to put on it")


def load_encoder(arguments: argparse.Namespace) -> MLLMEmbedder | DualEncoder:
    """Return the model that the options name, with the small one for its queries where there is one.

    Raises as `load_embedder`, and ConfigError where the two do not belong together.
    """
    if arguments.query_model is None:
        if arguments.query_adapter is not None:
            raise ConfigError("--query-adapter needs --query-model: an adapter goes on a model")
        return load_embedder(arguments)

    from ..encode.dual_encoder import DualEncoder

    # the other options, of number format and device, hold for both
    small = {**vars(arguments), "model": arguments.query_model, "adapter": arguments.query_adapter}
    small |= {"preset": None, "prompts": None}  # a distilled model has those it was trained with
    return DualEncoder(load_embedder(argparse.Namespace(**small)), load_embedder(arguments))


def load_embedder(arguments: argparse.Namespace, merge: bool = True) -> MLLMEmbedder:
    """Return the model that the options name; its adapter merged where it is only to embed, apart where it is to speak.

    Raises ConfigError for a bad option, ModelError for a bad model.
    """
    if arguments.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, not {arguments.batch_size}")

    from ..encode.embedder import MLLMEmbedder

    embedder = MLLMEmbedder.from_pretrained(
        arguments.model,
        adapter=arguments.adapter,
        preset=arguments.preset,
        prompts=arguments.prompts,
        dtype=arguments.dtype,
        quantization=arguments.quantization,
        device=arguments.device,
        dim=arguments.dim,
        max_tokens=arguments.max_tokens,
        truncate=arguments.truncate,
        jpeg_side=arguments.jpeg_side,
        thoughts=arguments.thoughts,
    )
    embedder = embedder.with_lexical(getattr(arguments, "lexical_words", None))  # of commands that have none, as saved
    _remember(embedder, arguments.thought_cache)
    if embedder.preset:
        sys.stderr.write(f"{_asked(embedder.preset, embedder.prompts)}\n")
    return embedder.merge_adapter() if merge else embedder


def _remember(embedder: MLLMEmbedder, cache: str | Path | None) -> None:
    """Let an embedder that thinks remember its thoughts in a file, where one is given.

    Raises ConfigError for a file of a model that does not think, DataError for one that cannot be read or written.
    """
    if cache is None:
        return
    if embedder.thinking is None:
        raise ConfigError("--thought-cache needs a model that thinks first: give --thoughts N too")

    from ..generate.thought_cache import ThoughtCache

    embedder.thought_cache = ThoughtCache(Path(cache))


def _asked(preset: Preset, prompts: PromptSet) -> str:
    """Return what a user is told of a model with a preset, which prompts of theirs may go over."""
    if prompts == preset.settings.prompts:
        return f"asked as {preset.title} is: preset {preset.name}"
    return f"preset {preset.name}, asked with the prompts {prompts.name} in the place of its own"
