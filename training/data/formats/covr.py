"""CoVR's mined triplets (lucas-ventura/CoVR): WebVid-CoVR on videos and CC-CoIR on pictures.

CSV    txt1, txt2, pth1, pth2, edit, scores    two captions, two files without their ending, what to change
"""

from .format import Format

COVR = Format(
    description="CSV with pth1, pth2, edit, txt1, txt2: WebVid-CoVR (a frame of each video saved as picture), CC-CoIR",
    columns={
        "image": "pth1",
        "target_image": "pth2",
        "instruction": "edit",
        "source_text": "txt1",
        "target_text": "txt2",
    },
    kinds=("triplets", "texts"),
    optional=frozenset({"id", "source_text", "target_text"}),
    suffixes=(".csv",),
    extensions=(".jpg", ".png", ".jpeg", ".webp"),
    hint="for videos, save the middle frame of FOLDER/ID.mp4 as FOLDER/ID.jpg",
)
