"""LaSCo (levymsn/LaSCo): triplets made of VQA 2.0's question pairs on COCO pictures.

lasco_train.json    [{"qid": 28714000, "query-image": [28714, "val2014/COCO_val2014_000000028714.jpg"],
                      "query-text": "The person is riding the bike", "target-image": [277005, "val2014/..."]}]
"""

from .format import Format, second

LASCO = Format(
    description="JSON list of {qid, query-image, query-text, target-image}: lasco_train.json",
    columns={"id": "qid", "image": "query-image", "instruction": "query-text", "target_image": "target-image"},
    kinds=("triplets",),
    cells={"image": second, "target_image": second},
    hint="LaSCo names pictures as train2014/... or val2014/...: images is the folder above those",
)
