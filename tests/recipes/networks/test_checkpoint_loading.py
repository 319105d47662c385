"""Weights from files: wrappers, classifiers, and every way a file can be wrong."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from foundation.errors import UserError
from recipes.networks import Network, build_network
from recipes.networks.own import OWN

INFO = SimpleNamespace(kind="image", shape=(3, 16, 16))


def small(tasks: dict[str, int] | None = None, **settings: object) -> Network:
    return build_network(
        INFO, tasks or {"label": 10}, name="digits_cnn", options={"width": 4}, **settings
    )


@pytest.fixture
def source() -> torch.nn.Module:
    torch.manual_seed(5)
    return OWN["digits_cnn"].create("digits_cnn", in_chans=3, width=4, num_classes=10)


def save(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def same(network: Network, source: torch.nn.Module, head: bool = True) -> bool:
    """Whether backbone, and classifier where asked, answer alike."""
    x = torch.rand(2, 3, 16, 16)
    normal = (x - network.mean) / network.std
    output = network.eval()(network.embed(x))
    features = source.eval().forward_head(source.forward_features(normal), pre_logits=True)
    return torch.allclose(output.features, features) and (
        not head or torch.allclose(output.logits["label"], source.fc(features))
    )


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_wrappers_are_taken_off(
    source: torch.nn.Module, tmp_path: Path, prefix: str, key: str | None
) -> None:
    state = {prefix + name: value for name, value in source.state_dict().items()}
    path = save({key: state, "epoch": 3} if key else state, tmp_path / "w.pt")
    assert same(small(checkpoint=path), source)


@pytest.mark.parametrize("classifier", ["linear", "head", "classifier", "head.fc"])
def test_classifier_finds_its_head(
    source: torch.nn.Module, tmp_path: Path, classifier: str
) -> None:
    state = {
        name.replace("fc.", f"{classifier}."): value for name, value in source.state_dict().items()
    }
    save_file(state, tmp_path / "w.safetensors")
    assert same(small(checkpoint=str(tmp_path / "w.safetensors")), source)


@pytest.mark.parametrize("tasks", [{"label": 9}, {"label": 10, "again": 10}])
def test_classifier_that_fits_none_or_several_is_left_out(
    source: torch.nn.Module, tmp_path: Path, tasks: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    path = save(source.state_dict(), tmp_path / "w.pt")
    network = small(tasks, checkpoint=path)
    assert "classifier 'fc'" in caplog.text
    assert same(network, source, head=False)
    assert network.heads["label"].bias.eq(0).all()


def test_own_checkpoint_brings_moments_and_heads(tmp_path: Path) -> None:
    first = small({"label": 10, "colour": 3}, mean=0.2, std=0.3)
    inside = {f"network.{key}": value for key, value in first.state_dict().items()}
    path = save(
        {"state_dict": inside | {"method_modules.ema.x": torch.zeros(3)}}, tmp_path / "last.ckpt"
    )
    again = small({"label": 10, "shape": 2}, checkpoint=path)
    assert again.mean.flatten().tolist() == pytest.approx([0.2] * 3)
    torch.testing.assert_close(again.heads["label"].weight, first.heads["label"].weight)
    explicit = small(checkpoint=path, mean=0.4)
    assert explicit.mean.flatten().tolist() == pytest.approx([0.4] * 3)


def test_files_before_the_batch_counter(source: torch.nn.Module, tmp_path: Path) -> None:
    state = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}
    assert same(small(checkpoint=save(state, tmp_path / "w.pt")), source)


def test_faults_are_named(source: torch.nn.Module, tmp_path: Path) -> None:
    state = source.state_dict()
    state["extra.weight"] = torch.zeros(2)
    state["layers.3.weight"] = torch.zeros(5, 4, 3, 3)
    del state["layers.0.weight"]
    path = save(state, tmp_path / "w.pt")
    with pytest.raises(UserError) as caught:
        small(checkpoint=path)
    message = str(caught.value)
    assert "missing: backbone.layers.0.weight;" in message
    assert "unexpected: backbone.extra.weight;" in message
    assert "backbone.layers.3.weight ([5, 4, 3, 3] in the file, [4, 4, 3, 3] here)" in message
    with torch.device("meta"), pytest.raises(UserError, match="missing: backbone"):
        small(checkpoint=path)


def test_meta_device_copies_nothing(source: torch.nn.Module, tmp_path: Path) -> None:
    path = save(source.state_dict(), tmp_path / "w.pt")
    with torch.device("meta"):
        assert all(p.is_meta for p in small(checkpoint=path).parameters())


class Sly:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".th"])
def test_not_a_file_of_weights(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        small(checkpoint="absent.pt")
    (tmp_path / f"text{suffix}").write_text("no weights at all, but words\n")
    with pytest.raises(UserError, match="not a file of weights") as caught:
        small(checkpoint=f"text{suffix}")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="has no tensors"):
        small(checkpoint=save({"epoch": 3}, tmp_path / "empty.pt"))
    with pytest.raises(UserError, match="not a file of weights") as caught:
        small(checkpoint=save({"state_dict": Sly()}, tmp_path / "sly.pt"))
    # torch advises to switch off the protection that has just worked
    assert "it holds Python objects" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
