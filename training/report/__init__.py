"""A run for people: its log as curves, and what they say in a few lines.

Reads `log.jsonl` alone, so it can be made again at any time.
"""

from mllm_embed.model.lora import import_peft

import_peft()  # quietly, before transformers' Trainer does so aloud
