"""Gradient checkpointing changes what is kept, and nothing else."""

import inspect

import pytest
import torch
from torch import Tensor

from hocp_mm.models import TimmHOCPBackbone

NAMES = ["test_resnet", "test_efficientnet", "test_convnext"]


def build(name: str, **options) -> TimmHOCPBackbone:
    torch.manual_seed(0)
    backbone = TimmHOCPBackbone(name, rank=4, **options).train()
    for key, parameter in backbone.named_parameters():
        if key.endswith("factors.t"):  # a delta would not tell how many frames were seen
            torch.nn.init.normal_(parameter, 0.5)
    return backbone


def loss(backbone: TimmHOCPBackbone, clips: list[Tensor]) -> Tensor:
    return sum(backbone(clip)[-1].sin().mean() for clip in clips)


def kept_bytes(backbone: TimmHOCPBackbone, clip: Tensor) -> int:
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        backbone(clip)
    return sum(sizes.values())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_statistics_are_those_of_a_pass_without(name):
    plain, checkpointed = build(name), build(name, grad_checkpointing=True)
    # Two lengths before one backward pass: what is computed again must see the frames that it saw before.
    clips = [torch.randn(2, 3, 6, 64, 64), torch.randn(4, 3, 3, 64, 64)]
    losses = []
    for backbone in (plain, checkpointed):
        losses.append(loss(backbone, clips))
        losses[-1].backward()
    assert torch.equal(*losses)
    twins = dict(checkpointed.named_parameters())
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(twins[key].grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=key)
    buffers = dict(checkpointed.named_buffers())
    for key, buffer in plain.named_buffers():
        assert torch.equal(buffers[key], buffer), key


@pytest.mark.parametrize("name", NAMES)
def test_less_is_kept_for_the_backward_pass(name):
    clip = torch.randn(1, 3, 4, 64, 64)
    backbone = build(name, grad_checkpointing=True)
    less, all_of_it = kept_bytes(backbone, clip), kept_bytes(build(name), clip)
    if less == all_of_it and "checkpoint" not in inspect.getsource(backbone.net.forward_intermediates):
        pytest.skip("this timm keeps everything where the stages of the network are asked for")
    assert less < 0.8 * all_of_it


def test_evaluation_and_forward_passes_without_gradient_are_left_alone():
    plain, checkpointed = build("test_resnet").eval(), build("test_resnet", grad_checkpointing=True).eval()
    clip = torch.randn(1, 3, 2, 64, 64)
    with torch.no_grad():
        assert torch.equal(plain(clip)[-1], checkpointed(clip)[-1])
    assert torch.equal(plain(clip)[-1], checkpointed(clip)[-1])
