"""From the config's network section to a network."""

from typing import Any, Literal, Protocol

from foundation.types import Count, ShareBelowOne, StepsOrShare
from recipes.networks.checkpoint import load_checkpoint, rows_in_checkpoint
from recipes.networks.checkpointed import recompute_in_backward
from recipes.networks.image import build_image
from recipes.networks.meta import on_meta
from recipes.networks.names import SMALL, Pooling
from recipes.networks.network import Network
from recipes.networks.requests import FreezeRequest


class DataInfo(Protocol):
    """Static facts of a data set; may also have `mean` and `std` of its pixels."""

    @property
    def kind(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int, int] | None: ...


def build_network(
    info: DataInfo,
    tasks: dict[str, int],
    *,
    name: str = "auto",
    pretrained: bool = False,
    checkpoint: str | None = None,
    input_size: Count | list[Count] | None = None,
    mean: float | list[float] | None = None,
    std: float | list[float] | None = None,
    pooling: Pooling = "mean",
    drop_rate: ShareBelowOne = 0.0,
    options: dict[str, Any] | None = None,
    vocab_size: Count | None = None,
    freeze: list[str] | None = None,
    unfreeze_at: dict[str, StepsOrShare] | None = None,
    freeze_batchnorm: bool | Literal["affine"] = False,
    gradient_checkpointing: bool = False,
) -> Network:
    """The network for a data set, with one head per task, in training mode.

    Under `with torch.device("meta")` only configurations and the names in a checkpoint are read.
    Raises UserError for settings that do not fit.

    info: `kind` and, of images, `shape` (C, H, W); from the data.
    tasks: number of classes by task; from the data.
    name: model of timm or Hugging Face, e.g. resnet50, or ours, e.g. wrn_28_2; `auto`: by the data.
        Images: any timm model (`resnet50`, `vit_tiny_patch16_224`, `hf-hub:…`), ours among them
        (`digits_cnn`, `wrn_28_2`, `wrn_28_8`, `wrn_37_2`, `resnet20_cifar`, `resnet32_cifar`,
        `resnet56_cifar`). Text: a Hugging Face encoder by name or folder, or `roux_text_small`.
        `auto` needs no files, see `default_name`.
    pretrained: load the weights of timm or Hugging Face.
    checkpoint: local .pt, .th, .ckpt or .safetensors file of weights, loaded last; null: none.
    input_size: side, or [height, width], that the backbone sees; null: the picture's own. Images
        only, see `build_image`.
    mean: mean of pixels in [0, 1]; null: that of the weights, else of the data, else 0.5. Images
        only, see `resolve_moments`.
    std: standard deviation of pixels; null: as for mean. Images only.
    pooling: pooling of a text's tokens: `mean`, `cls` (first) or `last`. Text only. Decoders have
        `mean` and `last`.
    drop_rate: dropout before the heads, in [0, 1); 0.
    options: further arguments of the model: +network.options.bn_momentum=0.1. Of the timm model
        (`bn_momentum`, `width`, `drop_path_rate` …) or fields of the encoder's configuration.
    vocab_size: tokens of the tokenizer, at least 1; null: as the tokenizer says. Text only.
    freeze: weights that do not train, by name of layer or parameter: [conv1,"blocks.*.attn"]; null:
        none. Patterns are explained at `FreezeRequest`.
    unfreeze_at: {NAME: optimizer step, or share of the run below 1} from which on weights train.
    freeze_batchnorm: BatchNorm keeps its running statistics; `affine`: its scale and shift too.
    gradient_checkpointing: compute activations again in the backward: less memory, more time.
    """
    name = default_name(info) if name == "auto" else name
    network: Network
    common: dict[str, Any] = {
        "name": name,
        "pretrained": pretrained,
        "drop_rate": drop_rate,
        "options": options,
    }
    if info.kind == "text":
        from recipes.networks.text import build_text  # transformers takes seconds to import

        common |= {"pooling": pooling}
        network = build_text(tasks, vocab_size=vocab_size, **common)
        if checkpoint is not None and on_meta() and not pretrained:
            # a tokenizer that is trained on the data has its size only then
            rows = rows_in_checkpoint(network, checkpoint)
            if rows is not None and rows != network.vocab_size:
                network = build_text(tasks, vocab_size=rows, **common)
    elif info.shape is None:
        raise ValueError("image data must have a shape (C, H, W)")
    else:
        size: dict[str, Any] = {"input_size": input_size, "mean": mean, "std": std}
        follow = checkpoint is not None
        network = build_image(
            info.shape, tasks, data_moments=_moments(info), weights_follow=follow, **size, **common
        )
    if checkpoint is not None:
        load_checkpoint(network, checkpoint, keep_moments=mean is not None or std is not None)
    if gradient_checkpointing:
        recompute_in_backward(network)
    network.freezing = FreezeRequest(tuple(freeze or ()), dict(unfreeze_at or {}), freeze_batchnorm)
    # Hugging Face returns encoders in evaluation mode, and Lightning does not change modes
    return network.train()


def default_name(info: DataInfo) -> str:
    """`auto`: a network for the data that needs no files. Text: `roux_text_small`. Images by their
    longer side: up to 28 pixels `digits_cnn`, up to 64 `wrn_28_2` (FixMatch's), above `resnet18`.
    """
    if info.kind == "text" or info.shape is None:
        return SMALL
    side = max(info.shape[1:])
    if side <= 28:
        return "digits_cnn"
    return "wrn_28_2" if side <= 64 else "resnet18"


def _moments(info: DataInfo) -> tuple[Any, Any] | None:
    """(mean, std) of the data's pixels, None if it does not have both."""
    mean = getattr(info, "mean", None)
    std = getattr(info, "std", None)
    if mean is None or std is None:
        return None
    return mean, std
