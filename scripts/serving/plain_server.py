"""The server that people write for themselves: FastAPI around `SentenceTransformer.encode`, a request at a time.

python scripts/serving/plain_server.py FOLDER PORT
"""

from __future__ import annotations

import base64
import io
import sys

import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Input(BaseModel):
    """A picture, and what to change in it."""

    image: str
    instruction: str


class Request(BaseModel):
    """What is posted."""

    input: list[Input]


app = FastAPI()
model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)


def _asked(given: Input) -> dict[str, object]:
    content = base64.b64decode(given.image.partition(",")[2])
    return {"image": Image.open(io.BytesIO(content)).convert("RGB"), "text": given.instruction}


@app.post("/v1/embeddings")
def embeddings(request: Request) -> dict[str, object]:
    """Return the vectors of a request's inputs."""
    vectors = model.encode([_asked(one) for one in request.input], show_progress_bar=False)
    return {"data": [{"index": at, "embedding": vector.tolist()} for at, vector in enumerate(vectors)]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
