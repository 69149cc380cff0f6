"""Text-only training data: RTD's and CompoDiff's LLM_triplets.json, and the NLI triples of SimCSE and E5-V."""

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
