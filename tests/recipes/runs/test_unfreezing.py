"""Runs whose weights begin to train later: nothing moves before its step, a resumed run is
bit-identical, an averaged network follows, gradients that are dropped give the same weights."""

import pytest
import torch

import recipes
from recipes.engine.unfreezing import Unfreezing
from recipes.runs.start import ready, start

RUN = [
    "data=digits",
    "data.batch_size=16",
    "optimizer=adamw",
    "optimizer.weight_decay=0.1",
    "trainer.val_every=2",
    "trainer.log_every=2",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "averaging=ema",
    "network.freeze=[layers.0]",
    # the convolution and the norm behind it, and one more convolution
    "network.unfreeze_at={layers.3: 4, layers.4: 4, layers.6: 0.5}",
]
LATER = {"layers.3.weight": 4, "layers.4.weight": 4, "layers.4.running_mean": 4}
LATER |= {"layers.4.bias": 4, "layers.6.weight": 6}


def trained(folder, steps, *more):
    start(ready([*RUN, f"trainer.max_steps={steps}", f"run_dir={folder}", *more]))
    return folder


def state(folder, name="last"):
    from recipes.checkpointing.files import load_checkpoint

    return load_checkpoint(str(folder / "checkpoints" / f"{name}.ckpt"))["state_dict"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run", 12)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """The same run as far as its fifth step: layers.6 waits still, as it says a step."""
    folder = tmp_path_factory.mktemp("part") / "run"
    return trained(folder, 5, "network.unfreeze_at={layers.3: 4, layers.4: 4, layers.6: 6}")


def test_nothing_moves_before_its_step(part, tmp_path):
    start_of = state(trained(tmp_path / "one", 1))
    after = state(part)
    for name, step in LATER.items():
        for owner in ("network", "teacher.network"):
            key = f"{owner}.backbone.{name}"
            assert torch.equal(after[key], start_of[key]) == (step > 5), key
    for owner in ("network", "teacher.network"):
        assert torch.equal(
            after[f"{owner}.backbone.layers.0.weight"],
            start_of[f"{owner}.backbone.layers.0.weight"],
        )
    assert not torch.equal(
        after["network.backbone.layers.9.weight"], start_of["network.backbone.layers.9.weight"]
    )


def test_a_resumed_run_is_bit_identical(whole, part, tmp_path):
    """From before the last layer begins to train."""
    again = trained(
        tmp_path / "run",
        12,
        f"resume={part}",
        "accept_changes=true",
    )
    mine, theirs = state(again), state(whole)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_what_never_trains_is_written_once(whole):
    (base,) = (whole / "checkpoints").glob("base-*.pt")
    names = torch.load(base, weights_only=True).keys()
    weight = "backbone.layers.0.weight"
    assert names == {f"network.{weight}", f"teacher.network.{weight}"}
    images = torch.linspace(0, 1, 2 * 64).view(2, 1, 8, 8)
    with torch.no_grad():
        assert recipes.load(whole)(images)["label"].shape == (2, 10)


def test_dropped_gradients_give_the_same_weights(whole, tmp_path, monkeypatch):
    """As on several devices, where DDP has to know all weights that train."""
    begin = Unfreezing.begin
    monkeypatch.setattr(Unfreezing, "begin", lambda self, done, several: begin(self, done, True))
    dropped = state(trained(tmp_path / "run", 12))
    for name, value in state(whole).items():
        assert torch.allclose(value, dropped[name], atol=1e-6), name


def test_a_second_network_waits_too(tmp_path):
    more = (
        "semi_supervised=meta_pseudo_labels",
        "averaging=none",
        "network.unfreeze_at={layers.3: 2, layers.4: 2, layers.6: 9}",
    )
    one, three = (state(trained(tmp_path / str(n), n, *more)) for n in (1, 3))
    prefix = "networks.trained.meta_teacher.backbone."
    for name, step in {
        "layers.3.weight": 2,
        "layers.4.running_mean": 2,
        "layers.6.weight": 9,
    }.items():
        assert torch.equal(one[prefix + name], three[prefix + name]) == (step > 3), name
    assert torch.equal(one[f"{prefix}layers.0.weight"], three[f"{prefix}layers.0.weight"])
    own = "network.backbone.layers.0.weight"
    assert not torch.equal(one[f"{prefix}layers.0.weight"], one[own])
