"""Parameters in parts: what either of two ranks holds, and that none waits for the other in an
evaluation."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from foundation.errors import UserError
from recipes.engine.sharding import blocks, keep_whole, shard
from recipes.networks.image import build_image
from recipes.step import Embedded
from tests.support.processes import on_two_ranks

VIT = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}


def network():
    torch.manual_seed(0)
    return build_image(
        (1, 8, 8), {"label": 10}, name="vit_tiny_patch16_224", input_size=8, options=VIT
    )


def held(net):
    """Numbers in the parameters of this rank's memory."""
    return sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in net.parameters())


def observe(rank, world):
    net = network()
    mesh = init_device_mesh("cpu", (world,))
    shard(net, mesh)
    shard(net, mesh)
    sizes = [held(net)]
    pictures = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    net(Embedded(pictures)).logits["label"].square().sum().backward()
    gradients = {name: p.grad.full_tensor() for name, p in net.named_parameters()}
    keep_whole(net, mesh, True)
    with torch.no_grad():
        for _ in range(rank + 1):  # one rank has a batch more
            logits = net(Embedded(pictures)).logits["label"]
    sizes.append(held(net))
    keep_whole(net, mesh, False)
    return {"sizes": [*sizes, held(net)], "gradients": gradients, "logits": logits}


def test_each_rank_holds_half_and_has_it_whole_to_evaluate():
    whole = network()
    total = held(whole)
    sizes = [seen["sizes"] for seen in on_two_ranks(observe)]
    assert sum(parts for parts, _, _ in sizes) == total
    for parts, evaluated, again in sizes:
        assert 0.45 * total < parts < 0.55 * total and evaluated == total and again == parts


def test_gradients_are_the_mean_over_ranks():
    whole = network()
    pictures = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = whole(Embedded(pictures)).logits["label"]
    logits.square().sum().backward()
    for seen in on_two_ranks(observe):
        assert torch.allclose(seen["logits"], logits.detach(), atol=1e-6)
        for name, parameter in whole.named_parameters():
            torch.testing.assert_close(
                seen["gradients"][name], parameter.grad, atol=1e-5, rtol=1e-5
            )


def test_units_are_the_repeated_blocks():
    net = network()
    assert list(blocks(net.backbone)) == list(net.backbone.blocks)


def test_a_network_with_batch_statistics_is_refused():
    net = build_image((1, 8, 8), {"label": 10}, name="digits_cnn")
    with pytest.raises(UserError, match=r"trainer\.strategy=fsdp: the network has batch norm"):
        shard(net, None)
