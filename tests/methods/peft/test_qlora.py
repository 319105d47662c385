"""NF4 against its worked numbers, its construction and bitsandbytes; QLoRA in networks."""

import copy
from statistics import NormalDist

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from methods.peft import nf4
from methods.peft.lora import LoRA
from methods.peft.nf4 import LEVELS, Packed, block_constants, dynamic_map, pack, unpack
from methods.peft.qlora import FourBitLinear, QLoRA
from methods.peft.weights import merge
from recipes.services.teacher import copy_sharing_frozen
from tests.support.comparison import installed
from tests.support.small_networks import TEXT, features, fill, network, operate

IMAGES = ["vit", "beit", "swinv2"]


@pytest.fixture(autouse=True)
def own_arithmetic(monkeypatch):
    monkeypatch.setattr(nf4, "has_kernel", lambda device_type: False)


# -- arithmetic ------------------------------------------------------------------------------------
def test_levels_are_normal_quantiles():
    """7 negative ones, 0 and 8 positive ones, from the offset 0.9677083, divided by the largest."""
    quantile = NormalDist().inv_cdf
    offset = 0.9677083
    up = [quantile(offset + (0.5 - offset) * i / 8) for i in range(8)]
    down = [-quantile(offset + (0.5 - offset) * i / 7) for i in range(7)]
    made = sorted(value / max(up) for value in [*up, *down, 0.0])
    assert list(LEVELS) == pytest.approx(made, abs=2e-7)


def test_worked_numbers():
    weight = torch.tensor([0.5, -1.0, 0.1, 2.0])
    packed = pack(weight, double=False)
    assert packed.codes[0, :2].tolist() == [10 * 16 + 2, 8 * 16 + 15]
    found = unpack(packed, (4,))
    expected = torch.tensor([0.492225, -1.050146, 0.159161, 2.0])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(3, 5), (64, 64), (130, 33), (512, 96)])
@pytest.mark.parametrize("double", [False, True])
def test_every_value_is_within_half_the_largest_gap_of_its_block(shape, double):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed = pack(weight, double)
    error = (unpack(packed, shape) - weight).abs()
    constants = nf4.in_blocks(weight, 64).abs().amax(1)
    off = (block_constants(packed) - constants).abs()
    assert float((off / constants.mean()).max()) < (0.02 if double else 1e-7)
    bound = 0.1519036 * constants + off
    assert bool((nf4.in_blocks(error, 64) <= bound.unsqueeze(1) + 1e-6).all())
    bits = sum(t.numel() * t.element_size() * 8 for t in packed) / weight.numel()
    if shape == (512, 96):
        assert bits == pytest.approx(4.127 if double else 4.5, abs=0.01)


def test_packing_what_was_unpacked_changes_nothing():
    weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    once = unpack(pack(weight, double=False), (64, 48))
    assert torch.equal(unpack(pack(once, double=False), (64, 48)), once)
    assert not unpack(pack(torch.zeros(8, 8)), (8, 8)).any()


@pytest.mark.parametrize("shape", [(64, 64), (130, 32), (512, 96)])
def test_bitsandbytes_packs_and_unpacks_the_same(shape):
    library = installed("bitsandbytes.functional")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    # flat: its kernel for CPUs is wrong where a row is not a whole number of blocks
    flat = weight.flatten()
    codes, state = library.quantize_4bit(flat, compress_statistics=True, quant_type="nf4")
    packed = pack(weight)
    assert torch.equal(packed.codes.flatten(), codes.flatten())
    assert torch.equal(packed.constants, state.absmax)
    torch.testing.assert_close(packed.offset, state.offset)
    # the library takes the midpoints in float32
    torch.testing.assert_close(dynamic_map(), state.state2.code, atol=1e-7, rtol=0)
    theirs = library.dequantize_4bit(codes, state).view(shape)
    torch.testing.assert_close(unpack(packed, shape), theirs, atol=1e-7, rtol=1e-6)


def test_a_kernel_of_bitsandbytes_gives_our_numbers(monkeypatch):
    installed("bitsandbytes")
    weight = torch.randn(130, 33, generator=torch.Generator().manual_seed(0))
    packed = pack(weight)
    ours = unpack(packed, (130, 33))
    monkeypatch.setattr(nf4, "has_kernel", lambda device_type: True)
    torch.testing.assert_close(unpack(packed, (130, 33)), ours, atol=1e-7, rtol=0)


def test_a_packed_layer_computes_with_its_unpacked_weight_and_keeps_no_other():
    torch.manual_seed(0)
    layer = nn.Linear(24, 10)
    packed = FourBitLinear(layer, double=True)
    x = torch.randn(3, 5, 24, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = packed(x)
    assert all(t.numel() < 24 * 10 for t in kept)
    whole = packed.whole()
    expected = whole(x)
    torch.testing.assert_close(y, expected)
    (mine,) = torch.autograd.grad(y.pow(2).sum(), x)
    (yours,) = torch.autograd.grad(expected.pow(2).sum(), x)
    torch.testing.assert_close(mine, yours)
    assert type(whole) is nn.Linear
    with torch.autocast("cpu", torch.bfloat16):
        half = packed(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)
    assert torch.autograd.grad(half.float().sum(), x)[0].dtype == torch.float32


# -- in networks -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*IMAGES, *TEXT])
def test_every_transformer_is_packed_changes_with_the_deltas_and_merges(name):
    made = operate(QLoRA(4), network(name), "qlora")
    packed = [m for m in made.backbone.modules() if isinstance(m, FourBitLinear)]
    assert packed
    plain = network(name)
    before = features(made)
    assert not torch.equal(before, features(plain)), "quantising changes the output"
    fill(made, "qlora")
    changed = features(made)
    assert float((changed - before).abs().max()) > 1e-3
    restore = merge(made)
    torch.testing.assert_close(features(made), changed, atol=1e-5, rtol=1e-5)
    assert made.state_dict().keys() == plain.state_dict().keys()
    assert [type(m) for m in made.modules()] == [type(m) for m in plain.modules()]
    restore()
    assert torch.equal(features(made), changed)
    trained = {n for n, p in made.named_parameters() if p.requires_grad}
    assert all(n.startswith(("deltas.", "heads.")) for n in trained)


def test_on_unpacked_weights_it_is_lora():
    """Plain LoRA on a network whose weights are those that the packed ones stand for."""
    made = operate(QLoRA(4, 8.0, dropout=0.0), network("bert"), "qlora")
    fill(made, "qlora")
    plain = network("bert")
    with torch.no_grad():
        for name, module in made.backbone.named_modules():
            if isinstance(module, FourBitLinear):
                plain.backbone.get_submodule(name).weight.copy_(module.weight)
    operate(LoRA(4, 8.0, targets=["all_linear"]), plain, "qlora")
    fill(plain, "qlora")
    torch.testing.assert_close(features(made), features(plain), atol=1e-6, rtol=1e-6)


def test_an_averaged_copy_shares_the_packed_weights_and_a_state_restores_them():
    made = operate(QLoRA(4), network("vit"), "qlora")
    twin = copy_sharing_frozen(made)
    own = dict(made.named_parameters())
    codes = [n for n in own if n.endswith(".codes")]
    assert codes
    assert all(dict(twin.named_parameters())[n] is own[n] for n in codes)
    assert all(own[n].dtype == torch.uint8 for n in codes)
    fill(made, "qlora")
    other = operate(QLoRA(4), network("vit", seed=1), "qlora")
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    assert torch.equal(features(other), features(made))


def test_on_the_meta_device_it_has_the_same_shapes():
    with torch.device("meta"):
        shapes = {n: v.shape for n, v in packed_state(network_on_meta()).items()}
    assert shapes == {n: v.shape for n, v in packed_state(network("vit")).items()}


def network_on_meta():
    return network("vit")


def packed_state(made):
    return operate(QLoRA(4), made, "qlora").state_dict()


def test_what_has_nothing_to_pack_is_refused(caplog):
    with pytest.raises(UserError, match="has no linear layer to store in 4 bits; use peft=lora"):
        operate(QLoRA(4), network("digits_cnn"), "qlora")
    with pytest.raises(UserError, match="none of its targets in ConvNeXt can be stored in 4 bits"):
        operate(QLoRA(4, targets=["conv.stem"]), network("convnext"), "qlora")
    operate(QLoRA(4), network("swinv2"), "qlora")
    assert "layers stay in full precision" in caplog.text
    assert set(QLoRA.declaration.refuses) & set(LoRA.declaration.tags)


def test_the_note_says_whose_arithmetic_it_is(monkeypatch):
    monkeypatch.setattr("methods.peft.qlora.has_kernel", lambda device: False)
    assert "Roux's own arithmetic" in QLoRA().remarks()[0]
    monkeypatch.setattr("methods.peft.qlora.has_kernel", lambda device: True)
    assert QLoRA().remarks() == []


def test_packed_has_the_fields_of_a_layer():
    layer = FourBitLinear(nn.Linear(4, 4), double=True)
    assert tuple(dict(layer.named_parameters())) == ("bias", *Packed._fields)


def test_a_packed_layer_keeps_the_hooks_of_methods_before():
    layer = nn.Linear(64, 3)
    seen = []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append("behind"))
    layer.register_forward_pre_hook(lambda module, args: seen.append("before"))
    packed = FourBitLinear(layer, double=True)
    packed(torch.ones(1, 64))
    assert seen == ["before", "behind"]
    packed.whole()(torch.ones(1, 64))
    assert seen == ["before", "behind"] * 2
    handle.remove()
    packed(torch.ones(1, 64))
    assert seen[4:] == ["before"]
