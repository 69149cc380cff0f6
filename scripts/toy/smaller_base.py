"""Make a smaller base of a LLaVA-like one: some layers of its language model, the rest as it is.

    python scripts/toy/smaller_base.py scripts/assets/base --layers 0 2 4 --output runs/small-base

A start for distilling a query encoder where no smaller model of the family is at hand (DistilBERT starts so too,
arXiv 1910.01108). It embeds badly until it is trained: mllm-embed-train run demo-query.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn

from mllm_embed.errors import ConfigError, user_errors
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.model.loading import check_name, load_errors
from mllm_embed.model.processor_loading import load_processor
from mllm_embed.saving.sentence_transformers_files import write_base_files


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or hub id")
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="layers that stay, counted from 0")
    parser.add_argument("--output", type=Path, required=True, help="folder of the smaller model")
    args = parser.parse_args()

    from transformers import AutoModelForImageTextToText

    check_name(args.model)
    with load_errors(args.model):
        model = AutoModelForImageTextToText.from_pretrained(args.model, dtype="auto", use_safetensors=True)
    decoder, config = model.model.language_model, model.config.get_text_config()
    count = len(decoder.layers)
    if sorted(set(args.layers)) != args.layers or not 0 <= args.layers[0] <= args.layers[-1] < count:
        raise ConfigError(f"--layers must increase, from 0 to {count - 1}, not {' '.join(map(str, args.layers))}")
    before = sum(parameter.numel() for parameter in model.parameters())
    decoder.layers = nn.ModuleList(decoder.layers[at] for at in args.layers)
    config.num_hidden_layers = len(args.layers)
    for number, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = number
    model.save_pretrained(args.output)
    load_processor(args.model).save_pretrained(args.output)
    write_base_files(args.output, PROMPT_SETS["instructcir"])
    after = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.output}: {after:,} parameters of {before:,}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
