"""Text-only training data: the triplets of CompoDiff and RTD, and the NLI triples of SimCSE and E5-V.

LLM_triplets.json      {"reference_caption", "conditioning_caption", "target_caption"} a line, or a list of them
nli_for_simcse.csv     sent0, sent1, hard_neg: a sentence, one that follows from it, one that contradicts it
"""

from .format import Format

TEXT_TRIPLETS = Format(
    description="JSON rows of {reference_caption, conditioning_caption, target_caption}: LLM_triplets.json",
    columns={
        "source_text": "reference_caption",
        "instruction": "conditioning_caption",
        "target_text": "target_caption",
    },
    kinds=("texts",),
)
NLI = Format(
    description="CSV with sent0, sent1, hard_neg: nli_for_simcse.csv",
    columns={"source_text": "sent0", "target_text": "sent1", "negative_text": "hard_neg"},
    kinds=("texts",),
    suffixes=(".csv",),
)
