"""MegaPairs (JUNJIE99/MegaPairs): 26 million mined pairs of pictures with instructions and hard negatives.

{"q_img": PATH, "q_text": ["make it red", ...], "t_img": PATH, "hns": [PATH, ...]}    a line
"""

from .format import Format

MEGAPAIRS = Format(
    description="JSON lines of {q_img, q_text, t_img, hns}",
    columns={"image": "q_img", "instruction": "q_text", "target_image": "t_img", "negative_image": "hns"},
    kinds=("triplets",),
    optional=frozenset({"id", "negative_image"}),
)
