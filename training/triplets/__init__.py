"""Triplets made by a language model from image-caption pairs: stage 2's data, for pictures that have captions alone.

A language model reads a caption and returns instructions, each with the caption that would be true after it, as
InstructCIR (arXiv 2412.05756) makes its triplets. `captions` reads them from any source of pairs, `prompt` asks,
`endpoint` or `local` answers, `mllm_embed.generate.answer_cache` holds what was answered, `answers` judges it, `make`
wires them and writes the folder.
"""

from .captions import Captions
from .make import make_triplets

__all__ = ["Captions", "make_triplets"]
