"""Local alignment: learned tokens stay near the picture's own, and leave none of these out.

ISA (arXiv 2403.01431) holds the tokens of its sentence to the picture's local features by a frozen matching encoder,
BLIP's, that judges whether the two belong together; its equation was not at hand, and a language model that embeds has
no such encoder. Cosines in both directions, which need none, are ours: a term of each picture by itself, so that it
does not depend on how a batch is cut.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def local_alignment(learned: Tensor, local: Tensor) -> Tensor:
    """Return the loss of each picture, [P] float32, between 0 and 4.

        L = mean over l of (1 - max over n of z_l . f_n) + mean over n of (1 - max over l of z_l . f_n)

    Args:
        learned: z [P, k, H] float, what a token learner makes, of any length.
        local: f [P, N, H] float, the picture's tokens, of any length; they get no gradient.
    """
    z, f = F.normalize(learned.float(), dim=-1), F.normalize(local.detach().float(), dim=-1)
    cosines = z @ f.transpose(1, 2)
    return (1 - cosines.amax(2)).mean(1) + (1 - cosines.amax(1)).mean(1)
