"""The delta alone, saved by a run and taken up by another; and the audit."""

import pytest
import torch
from safetensors import safe_open
from torch import nn

from foundation.errors import UserError
from methods.peft.lora import LoRA
from methods.peft.store import fingerprint, save_delta
from methods.peft.surgeon import PEFTMethod
from tests.support.small_networks import counts, features, fill, network, operate


@pytest.mark.parametrize("name", ["vit", "swinv2", "resnet", "bert"])
def test_saved_onto_a_fresh_backbone_it_says_the_same(name, tmp_path):
    made = operate(LoRA(), network(name), "lora")
    fill(made, "lora")
    nn.init.normal_(made.heads["label"].weight)
    save_delta(tmp_path / "delta.safetensors", made)
    for path in (tmp_path, tmp_path / "delta.safetensors"):
        again = operate(LoRA(load=str(path)), network(name), "lora")
        assert torch.equal(features(again), features(made))
        assert torch.equal(again.heads["label"].weight, made.heads["label"].weight)
    with safe_open(tmp_path / "delta.safetensors", "pt") as file:
        stored = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    assert stored == counts(made)[0] + sum(p.numel() for p in made.heads.parameters())


def test_heads_of_other_tasks_stay_behind(tmp_path, caplog):
    save_delta(tmp_path / "delta.safetensors", operate(LoRA(), network("vit"), "lora"))
    operate(LoRA(load=str(tmp_path)), network("vit", {"label": 7}), "lora")
    assert "only these fit: none" in caplog.text


def test_what_does_not_belong_is_refused(tmp_path):
    file = tmp_path / "delta.safetensors"
    save_delta(file, operate(LoRA(), network("vit"), "lora"))

    def refused(words, method, name="vit", seed=0):
        with pytest.raises(UserError, match=words) as refusal:
            operate(method, network(name, seed=seed), "lora")
        assert "\n" not in str(refusal.value)

    refused("was trained on other weights of a VisionTransformer", LoRA(load=str(file)), seed=1)
    refused(r"deltas.lora.0.a \[4, 32\] is missing \(8 in all\)", LoRA(rank=4, load=str(file)))
    refused(
        r"deltas.lora.2.b .* is missing", LoRA(targets=["attn.q", "attn.v", "mlp"], load=str(file))
    )
    refused("no such file", LoRA(load=str(tmp_path / "nowhere")))
    (tmp_path / "other.safetensors").write_bytes(b"no")
    refused("not a safetensors file", LoRA(load=str(tmp_path / "other.safetensors")))


def test_the_fingerprint_knows_weights_and_not_what_was_attached():
    for name in ("vit", "swinv2", "bert"):
        made = network(name)
        made.backbone.requires_grad_(False)
        plain = fingerprint(made)
        assert fingerprint(operate(LoRA(), network(name), "lora")) == plain
        assert fingerprint(operate(LoRA(), network(name, seed=1), "lora")) != plain


class Idle(PEFTMethod):
    """A delta that nobody reads."""

    def attach(self, network):
        network.deltas[self.key] = nn.Linear(2, 2)


class Early(PEFTMethod):
    """Changes the output before it learnt anything."""

    def attach(self, network):
        network.deltas[self.key] = nn.Linear(1, 1)
        network.dropout.register_forward_hook(self.shift)
        network.dropout.register_forward_pre_hook(self.shift)

    def shift(self, module, args, output=None):
        return args[0] + 1


def test_a_delta_that_is_not_in_the_network_is_refused():
    with pytest.raises(
        UserError, match=r"methods.idle: VisionTransformer never uses 'deltas.idle.weight'"
    ):
        operate(Idle(), network("vit"), "idle")


def test_a_method_that_should_start_as_the_network_was_is_held_to_it():
    with pytest.raises(
        UserError, match=r"methods.early: changes the output of VisionTransformer before training"
    ):
        operate(Early(), network("vit"), "early")


def test_the_audit_leaves_no_trace():
    torch.manual_seed(5)
    made = network("resnet")
    modes = [m.training for m in made.modules()]
    buffers = {n: b.clone() for n, b in made.named_buffers()}
    state = torch.get_rng_state()
    method = LoRA(init="gaussian")
    operate(method, made, "lora")
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    for delta in made.deltas["lora"]:
        assert torch.equal(nn.init.normal_(torch.empty_like(delta.a), std=1 / 8), delta.a)
        assert not delta.b.any()
    assert torch.equal(torch.get_rng_state(), after), "only the initial values draw"
    assert all(torch.equal(b, buffers[n]) for n, b in made.named_buffers())
    assert all(p.grad is None for p in made.parameters())
    assert [m.training for m in made.modules()][: len(modes)] != modes, (
        "norms of the backbone are still"
    )
    assert made.training
