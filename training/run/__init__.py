"""A recipe being trained: stages, transformers' Trainer, checkpoints, logs, validation, and when to stop.

A stopped run goes on and ends with the same adapter, bit for bit.
"""

from mllm_embed.model.lora import import_peft

import_peft()  # quietly, before transformers' Trainer does so aloud
