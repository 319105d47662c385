"""A network folder, a file of weights, a delta or a tokenizer of a stranger: nothing in them
executes, writes, or makes a request, and what does not fit is one line."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from datamodules.text.tokenizer import load_tokenizer
from foundation.errors import UserError
from methods.peft.lora import LoRA
from recipes.networks import build_network
from tests.recipes.predict.hostile import guarded
from tests.support.tiny_encoders import tiny_config

TEXT = SimpleNamespace(kind="text", shape=None)
IMAGE = SimpleNamespace(kind="image", shape=(3, 32, 32))
Attack = Callable[[Path], None]  # changes the honest folder


class Payload:
    """Leaves a trace when it is unpickled."""

    def __init__(self, command: str = "touch RAN"):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: Any) -> Path:
    """An encoder with its weights."""
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp("honest") / "encoder"
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert")).save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: Any) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(honest: Path, place: Path, monkeypatch: Any) -> Path:
    """A copy of it in the current folder, beside modules that must not be imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.syspath_prepend(str(place))
    trace = f"open({str(place / 'RAN')!r}, 'w').write('x')\n"
    (place / "evil.py").write_text(trace)
    copy = place / "encoder"
    copy.mkdir()
    for file in honest.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "evil.py").write_text(trace + "class Config: pass\nclass Model: pass\n")
    return copy


def config(**fields: Any) -> Attack:
    """Other fields in config.json."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def written(name: str, content: str | bytes) -> Attack:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def pickled(name: str, wrap: Callable[[Any], Any] = lambda payload: payload) -> Attack:
    """Weights that are a pickle with a payload, in place of the honest ones."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(wrap(Payload()), folder / name)

    return change


def raw_pickle(name: str) -> Attack:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps({"x": Payload()}))

    return change


def index(suffix: str, target: str) -> Attack:
    """An index of shards that leads out of the folder."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        outside = folder.parent / "forbidden.bin"
        torch.save({"x": Payload()}, outside)
        weights = {"weight_map": {"embeddings.word_embeddings.weight": target}}
        (folder / f"{suffix}.index.json").write_text(json.dumps({"metadata": {}} | weights))

    return change


def linked(name: str, target: str) -> Attack:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def code(module: str) -> dict[str, str]:
    return {"AutoConfig": f"{module}.Config", "AutoModel": f"{module}.Model"}


ENCODERS: dict[str, Attack] = {
    "code of an unknown type": config(model_type="evil", auto_map=code("evil")),
    "code of a known type": config(auto_map=code("evil")),
    "code with trust in the file": config(auto_map=code("evil"), trust_remote_code=True),
    "code of another repository": config(auto_map=code("stranger/evil--evil")),
    "code above the folder": config(model_type="evil", auto_map=code("../evil")),
    "architecture by module": config(architectures=["evil.Model"]),
    "type by path": config(model_type="../evil"),
    "type that is a list": config(model_type=["bert"]),
    "name of a hub": config(_name_or_path="stranger/evil"),
    "attention from a hub": config(_attn_implementation="stranger/kernel"),
    "attention by name": config(attn_implementation="stranger/kernel:run"),
    "experts from a hub": config(_experts_implementation="stranger/kernel"),
    "a quantizer": config(quantization_config={"quant_method": "evil"}),
    "a quantizer by path": config(
        quantization_config={"quant_method": "../evil", "module": "evil"}
    ),
    "a type of numbers": config(dtype="os.system"),
    "a torch type": config(torch_dtype="__import__('evil')"),
    "an activation": config(hidden_act="evil.run"),
    "an activation of torch": config(hidden_act="os.system"),
    "a pickled model": pickled("pytorch_model.bin"),
    "a pickled entry": pickled("pytorch_model.bin", lambda payload: {"x": payload}),
    "a bare pickle": raw_pickle("pytorch_model.bin"),
    "shards above the folder": index("pytorch_model.bin", "../forbidden.bin"),
    "shards elsewhere": index("pytorch_model.bin", "/etc/passwd"),
    "safe shards above": index("model.safetensors", "../forbidden.bin"),
    "an adapter of a hub": written(
        "adapter_config.json",
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "stranger/evil"}),
    ),
    "an adapter with code": written(
        "adapter_config.json",
        json.dumps({"auto_mapping": {"parent_library": "evil", "base_model_class": "Model"}}),
    ),
    "a config that is a list": written("config.json", "[]"),
    "a config that is nothing": written("config.json", ""),
    "a config nested deep": written("config.json", "[" * 100_000),
    "a config of binary": written("config.json", b"\xff\xfe\x00"),
    "a config that is a link": linked("config.json", "/etc/hostname"),
    "weights that are a link": linked("model.safetensors", "/etc/passwd"),
    "weights cut short": written("model.safetensors", b"\xff" * 8),
    "sizes beyond memory": config(vocab_size=10**15),
    "negative sizes": config(hidden_size=-4),
}


def refused_or_harmless(seen: list[str], place: Path, run: Callable[[], Any]) -> str:
    """Run; what is refused is one line of a UserError. Nothing may have happened besides."""
    message = ""
    try:
        run()
    except UserError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 700, message
    assert not (place / "RAN").exists()
    return message


@pytest.mark.parametrize("name", ENCODERS)
def test_a_hostile_encoder(folder: Path, place: Path, name: str) -> None:
    ENCODERS[name](folder)
    for pretrained in (True, False):
        settings = {"name": str(folder), "pretrained": pretrained}

        def build(settings: dict[str, Any] = settings) -> None:
            build_network(TEXT, {"label": 3}, **settings)

        with guarded(place) as seen:
            refused_or_harmless(seen, place, build)
        assert not seen, seen


TOKENIZERS: dict[str, Attack] = {
    "code": written(
        "tokenizer_config.json",
        json.dumps({"auto_map": {"AutoTokenizer": [None, "evil.Model"]}, "tokenizer_class": "X"}),
    ),
    "code of a repository": written(
        "tokenizer_config.json",
        json.dumps({"auto_map": {"AutoTokenizer": ["a/b--evil.Model", None]}}),
    ),
    "a class by module": written(
        "tokenizer_config.json", json.dumps({"tokenizer_class": "evil.Model"})
    ),
    "a template": written(
        "tokenizer_config.json",
        json.dumps({"chat_template": "{{ cycler.__init__.__globals__.os.system('touch RAN') }}"}),
    ),
    "a broken file": written("tokenizer.json", "{"),
    "a file of another kind": written("tokenizer.json", '{"model": {"type": "evil"}}'),
    "a list": written("tokenizer.json", "[]"),
    "a pickle": written("tokenizer.json", pickle.dumps(Payload())),
    "a vocabulary that is a link": linked("vocab.txt", "/etc/passwd"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_hostile_tokenizer(folder: Path, place: Path, name: str) -> None:
    TOKENIZERS[name](folder)
    with guarded(place) as seen:
        refused_or_harmless(seen, place, lambda: load_tokenizer(str(folder)))
    assert not seen, seen


TIMM: dict[str, str] = {
    "an unknown architecture": json.dumps({"architecture": "evil"}),
    "an architecture by path": json.dumps({"architecture": "../evil.Model"}),
    "arguments of another model": json.dumps(
        {"architecture": "resnet18", "model_args": {"evil": "evil.run"}}
    ),
    "weights of a hub": json.dumps(
        {"architecture": "test_vit", "pretrained_cfg": {"hf_hub_id": "stranger/evil"}}
    ),
    "weights of an address": json.dumps(
        {"architecture": "test_vit", "pretrained_cfg": {"url": "http://stranger/evil.pth"}}
    ),
    "weights of a file": json.dumps(
        {"architecture": "test_vit", "pretrained_cfg": {"file": "../forbidden.bin"}}
    ),
    "no mapping": "[]",
    "nothing": "",
}


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_hostile_folder_of_timm(folder: Path, place: Path, name: str, pretrained: bool) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(TIMM[name])
    torch.save({"x": Payload()}, folder / "pytorch_model.bin")
    torch.save({"x": Payload()}, place / "forbidden.bin")
    settings = {"name": f"local-dir:{folder}", "pretrained": pretrained}

    def build() -> None:
        build_network(IMAGE, {"label": 3}, **settings)

    with guarded(place) as seen:
        message = refused_or_harmless(seen, place, build)
    assert message or not pretrained
    assert not seen, seen


def weights_file(path: Path) -> None:
    """A file of weights by its ending, with a payload."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", pickle.dumps(Payload()))
    elif path.suffix == ".safetensors":
        path.write_bytes(pickle.dumps(Payload()))
    elif path.suffix == ".old":
        torch.save({"x": Payload()}, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"state_dict": {"x": Payload()}}, path)


@pytest.mark.parametrize("ending", ["pt", "pth", "th", "bin", "ckpt", "safetensors", "npz", "old"])
def test_a_hostile_file_of_weights(folder: Path, place: Path, ending: str) -> None:
    path = place / f"weights.{ending}"
    weights_file(path)
    settings = {"name": "digits_cnn", "checkpoint": str(path)}

    def build() -> None:
        build_network(IMAGE, {"label": 3}, **settings)

    with guarded(place) as seen:
        message = refused_or_harmless(seen, place, build)
    assert not seen and str(path) in message and "weights_only" not in message


@pytest.mark.parametrize("kind", ["pickle", "folder of peft", "link", "other format"])
def test_a_hostile_delta(folder: Path, place: Path, kind: str) -> None:
    path = place / "delta.safetensors"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "other format":
        save_file({"x": torch.zeros(1)}, path)
    else:
        path.mkdir()
        about = {"peft_type": "LORA", "base_model_name_or_path": "stranger/evil"}
        (path / "adapter_config.json").write_text(json.dumps(about))
        torch.save({"x": Payload()}, path / "adapter_model.bin")
    method = LoRA(load=str(path))
    method.key = "lora"
    network = build_network(TEXT, {"label": 3}, name=str(folder), pretrained=True)
    with guarded(place) as seen:
        message = refused_or_harmless(seen, place, lambda: method.surgery(network))
    assert not seen and "methods.lora.load" in message
