"""FashionIQ (XiaoxiaoGuo/fashion-iq): two people's remarks on how one garment differs from another.

captions/cap.{dress,shirt,toptee}.train.json    [{"candidate": ASIN, "target": ASIN,
                                                  "captions": ["is solid black", "is longer"]}]
"""

from .format import Format, joined

FASHIONIQ = Format(
    description='captions/cap.*.train.json; the two captions are joined by "and"',
    columns={"image": "candidate", "target_image": "target", "instruction": "captions"},
    kinds=("triplets",),
    cells={"instruction": joined},
    extensions=(".png", ".jpg", ".jpeg"),
    hint="images is the folder with ASIN.png or ASIN.jpg",
)
