"""What a model is asked: words alone, or words about pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from mllm_embed.inputs.images import load_image
from mllm_embed.types import ImageLike

QUALITY = 90  # of the JPEG that a picture is sent as


@dataclass(frozen=True)
class Asked:
    """Words about pictures, which are read when they are sent.

    Args:
        words: the question.
        images: in the order in which the words count them.
        side: pixels of a picture's longer side; larger ones are made smaller.
    """

    words: str
    images: tuple[ImageLike, ...] = ()
    side: int = 768

    def content(self) -> str | list[dict[str, Any]]:
        """Return what a message of OpenAI's chat API holds: pictures first, as data URIs of JPEG, and then the words.

        Raises ImageError for a picture that cannot be read.
        """
        if not self.images:
            return self.words
        return [*map(self._part, self.images), {"type": "text", "text": self.words}]

    def _part(self, image: ImageLike) -> dict[str, Any]:
        picture = load_image(image).copy()
        picture.thumbnail((self.side, self.side))
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=QUALITY)
        uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return {"type": "image_url", "image_url": {"url": uri}}


def words_of(prompt: str | Asked) -> str:
    """Return the words of a prompt, which is asked of a model that sees nothing."""
    return prompt if isinstance(prompt, str) else prompt.words
