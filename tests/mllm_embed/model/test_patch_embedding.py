"""Convolutions over patches as products: the same numbers, the same parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel

import families
from mllm_embed.model.loading import load_model
from mllm_embed.model.patch_embedding import WholePatches, multiply_patches

PATCH = (2, 4, 4)


def layer(**options: object) -> nn.Conv3d:
    torch.manual_seed(0)
    return nn.Conv3d(3, 8, PATCH, **({"stride": PATCH} | options))


@pytest.mark.parametrize("bias", [False, True])
def test_a_product_gives_what_the_convolution_gives(bias: bool) -> None:
    plain, changed = layer(bias=bias), layer(bias=bias)
    multiply_patches(nn.Sequential(changed))
    assert type(changed) is WholePatches and changed.state_dict().keys() == plain.state_dict().keys()
    for shape in ((5, 3, *PATCH), (2, 3, 4, 8, 8)):  # patches, and a whole video
        given = [torch.randn(shape).requires_grad_() for _ in range(2)]
        given[1].data = given[0].data.clone()
        made, wanted = changed(given[0]), plain(given[1])
        assert made.shape == wanted.shape and torch.allclose(made, wanted, atol=1e-6)
        made.square().sum().backward()
        wanted.square().sum().backward()
        assert torch.allclose(given[0].grad, given[1].grad, atol=1e-5)
        assert torch.allclose(changed.weight.grad, plain.weight.grad, atol=1e-4)


def test_other_convolutions_stay() -> None:
    others = nn.Sequential(layer(stride=(1, 2, 2)), nn.Conv2d(3, 8, 4, stride=4))
    multiply_patches(others)
    assert [type(module) for module in others] == [nn.Conv3d, nn.Conv2d]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_qwen_is_loaded_so_and_saved_as_it_was(tmp_path: Path, family: str) -> None:
    folder = families.make(family, tmp_path / "model")
    model = load_model(str(folder), "float32", None, None, torch.device("cpu"))
    assert sum(isinstance(module, WholePatches) for module in model.modules()) == 1
    model.save_pretrained(tmp_path / "saved")
    stock = AutoModel.from_pretrained(tmp_path / "saved", dtype="float32").state_dict()
    assert stock.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in stock.items())
