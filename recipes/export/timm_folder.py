"""format=timm: a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`, one task per
folder.

timm's models take normalized images: mean and standard deviation are in its config.json, where
`timm.data.resolve_model_data_config` finds them. Roux's own networks are registered with timm by
importing `recipes.networks.in_timm`.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules.views.image import Middle
from foundation.errors import UserError
from foundation.files import write_json
from recipes.export.folding import CLOSE, Folded, difference, examples, stored
from recipes.networks.in_timm import timm
from recipes.predict.predictor import Predictor

# how timm brings a picture to a square -> data.source.fit
CROP_MODES = {"crop": "center", "pad": "border", "squash": "squash"}


def write_timm(predictor: Predictor, plain: Folded, folder: Path) -> float:
    """One folder, with several tasks one a task inside it. Returns the largest difference from the
    run's outputs.

    Raises UserError where the network is not one of timm's with one linear layer at its end.
    """
    if predictor.kind != "image":
        raise UserError(
            "format=timm: is for image networks; for text encoders use format=huggingface"
        )
    if plain.left:
        raise UserError(
            f"format=timm: {'; '.join(plain.left)}: timm cannot represent this; use format=onnx"
        )
    if not predictor.speaks:
        raise UserError(
            "format=timm: the heads of this run are not trained; use format=onnx, which has the "
            "embedding"
        )
    tasks = list(predictor.classes_by_task)
    inside = {task: folder / task if len(tasks) > 1 else folder for task in tasks}
    return max(write_task(predictor, plain, task, place) for task, place in inside.items())


def write_task(predictor: Predictor, plain: Folded, task: str, folder: Path) -> float:
    network: Any = plain.network
    about = describe(predictor, network, task)
    model = timm.create_model(
        about["architecture"], num_classes=about["num_classes"], **about["model_args"]
    )
    give_weights(model, network, network.heads[task])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", about)
    save_file(stored(model), folder / "model.safetensors", metadata={"format": "pt"})
    return checked(predictor, network, task, folder)


def share_seen(predictor: Predictor) -> float:
    """The share of a picture's side that the view of evaluation sees."""
    view = getattr(predictor.reader, "raw", None)
    return view.share if isinstance(view, Middle) else 1.0


def describe(predictor: Predictor, network: Any, task: str) -> dict[str, Any]:
    """timm's config. Images are brought to the input as in the run; the border of fit=pad has the
    color of timm, which is the mean."""
    backbone = network.backbone
    names = predictor.classes_by_task[task]
    known = getattr(backbone, "pretrained_cfg", None)
    if known is None or not hasattr(backbone, "reset_classifier"):
        raise UserError(
            "format=timm: methods of this run changed the architecture "
            f"({type(backbone).__name__}), and timm has no such model; use format=onnx"
        )
    channels, *shape = predictor.shape or (3, 0, 0)
    size = list(network.input_size or shape)
    options = {"in_chans": channels, **(predictor.config.network.get("options") or {})}
    if known.get("fixed_input_size"):
        options.setdefault("img_size", size)
    return {
        "architecture": known["architecture"],
        "num_classes": len(names),
        "num_features": network.feature_dim,
        "label_names": names,
        "model_args": options,
        "pretrained_cfg": {
            "input_size": [channels, *size],
            "fixed_input_size": bool(known.get("fixed_input_size")),
            "mean": network.mean.flatten().tolist(),
            "std": network.std.flatten().tolist(),
            "interpolation": "bicubic" if size == list(shape) else "bilinear",
            "crop_pct": share_seen(predictor),
            "crop_mode": CROP_MODES[predictor.form.fit if predictor.form else "crop"],
            "num_classes": len(names),
            "classifier": known.get("classifier"),
        },
    }


@torch.no_grad()
def give_weights(model: Any, network: Any, head: nn.Module) -> None:
    """Copy the weights. Raises UserError unless timm's model and the run end in one linear layer
    over the features."""
    own = model.get_classifier()
    linear = isinstance(own, nn.Linear) and isinstance(head, nn.Linear)
    if not linear or own.weight.shape != head.weight.shape:
        raise UserError(
            "format=timm: its model, or the run's head, is not one linear layer on the pooled "
            "features; use format=onnx"
        )
    weights = network.backbone.state_dict()
    # torch.compile adds a prefix to the names of a compiled module
    backbone = {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
    missing, unexpected = model.load_state_dict(backbone, strict=False)
    ends = {name for name, module in model.named_modules() if module is own}
    if unexpected or any(name.rpartition(".")[0] not in ends for name in missing):
        raise UserError(
            f"format=timm: its model has other weights ({(unexpected or missing)[0]}); use "
            "format=onnx"
        )
    own.weight.copy_(head.weight)
    if own.bias is not None:
        own.bias.copy_(head.bias if head.bias is not None else torch.zeros_like(own.bias))


@torch.no_grad()
def checked(predictor: Predictor, network: Any, task: str, folder: Path) -> float:
    """The difference of the folder, read by timm, from the run."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    pictures = examples(predictor, 3).to(predictor.device)
    expected = network(network.embed(pictures)).logits[task].float().cpu()
    found = model.cpu()(prepared(network, pictures).cpu())
    worst = difference({"logits": found}, {"logits": expected})
    if worst > CLOSE:
        raise UserError(
            f"format=timm: its outputs differ from the run's (by {worst:.1e}); it was deleted"
        )
    return worst


def prepared(network: Any, pictures: Tensor) -> Tensor:
    """The result of timm's own transform for images in [0, 1]."""
    x = (pictures - network.mean) / network.std
    if network.input_size is not None and tuple(x.shape[-2:]) != tuple(network.input_size):
        x = nn.functional.interpolate(
            x, network.input_size, mode="bilinear", align_corners=False, antialias=True
        )
    return x
