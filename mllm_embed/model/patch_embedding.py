"""Qwen's patch embedding as the product that it is.

Its processors cut pictures into patches themselves, and the model hands each to a convolution whose kernel covers it
whole. Libraries have no fast path for that: on GPUs it was reported to be ten times and more slower than the linear
layer with the same weights (github.com/pytorch/pytorch/issues/174051).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class WholePatches(nn.Conv3d):
    """A convolution over patches, computed as a product where its kernel covers its input."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [N, C', 1, 1, 1] for patches [N, C, T, H, W] of the kernel's size; else what a convolution gives."""
        if input.shape[2:] != self.weight.shape[2:]:
            return super().forward(input)
        product = F.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return product[:, :, None, None, None]


def multiply_patches(model: nn.Module) -> None:
    """Let every convolution over patches be a product; names and shapes of its parameters stay.

    transformers' own `fusion_config={"patch_embeddings": True}` is no way yet: as of 5.24 it leaves Qwen2-VL's patch
    weights random, and changes classes for all models that the process loads afterwards.
    """
    for module in model.modules():
        if type(module) is nn.Conv3d and module.stride == module.kernel_size and module.groups == 1:
            module.__class__ = WholePatches
