"""Networks of pictures: any timm model behind a normalisation of its own."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.errors import UserError, nearest
from recipes.networks.meta import on_meta
from recipes.networks.network import Network
from recipes.step import Embedded

logger = logging.getLogger(__name__)
Moments = float | Sequence[float]


class ImageNetwork(Network):
    """timm backbone (num_classes=0) on pictures in [0, 1]; normalisation is the first thing `features` does.

    backbone: module from [N, C, H, W] to [N, feature_dim]. mean, std: [C] each, in units of [0, 1] pixels;
    buffers, so that they travel with the weights. input_size: (height, width) the backbone needs; other
    pictures are resized (bilinear, antialiased) after normalisation. None takes pictures as they come. Memory
    format is the caller's: channels-last pictures stay so.
    """

    kind = "image"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        tasks: dict[str, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        input_size: tuple[int, int] | None = None,
        drop_rate: float = 0.0,
    ):
        super().__init__(feature_dim, tasks, drop_rate)
        self.backbone = backbone
        self.input_size = input_size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def embed(self, view: Tensor) -> Embedded:
        return Embedded(view)

    def features(self, embedded: Embedded) -> Tensor:
        x = (embedded.x - self.mean) / self.std
        if self.input_size is not None and tuple(x.shape[-2:]) != self.input_size:
            x = F.interpolate(x, self.input_size, mode="bilinear", align_corners=False, antialias=True)
        return self.backbone(x)


def build_image(
    shape: tuple[int, int, int],
    tasks: dict[str, int],
    *,
    name: str,
    pretrained: bool = False,
    input_size: int | Sequence[int] | None = None,
    mean: Moments | None = None,
    std: Moments | None = None,
    data_moments: tuple[Moments, Moments] | None = None,
    weights_follow: bool = False,
    drop_rate: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> ImageNetwork:
    """An ImageNetwork around the timm model `name` for pictures of `shape` (C, H, W).

    input_size: side, or (height, width), that the backbone sees. None: the picture's own, except for a
    pretrained model of fixed size (a ViT, say), which keeps the size of its weights. data_moments: (mean,
    std) of the data set.
    weights_follow: a checkpoint will be loaded, so the normalisation is chosen as for pretrained weights.
    Raises UserError for an unknown name or option, a size the model cannot take, weights that cannot be had.

    """
    channels, *size = shape
    known = _configuration(name)
    fixed = bool(known and known.fixed_input_size)
    if input_size is not None:
        size = [input_size, input_size] if isinstance(input_size, int) else list(input_size)
        if len(size) != 2:
            raise UserError(f"network.input_size={list(size)}: expected one side or [height, width]")
    elif known and fixed and pretrained:
        size = list(known.input_size[1:])
    arguments = {"num_classes": 0, "in_chans": channels, **(options or {})}
    if fixed:
        arguments.setdefault("img_size", tuple(size))
    with torch.device("meta"):
        skeleton = _create(name, arguments)
        feature_dim = _probe(skeleton, name, (channels, *size))
    backbone = skeleton if on_meta() else _create(name, arguments, pretrained=pretrained)
    resolved = resolve_moments(
        channels, mean, std, skeleton.pretrained_cfg if pretrained or weights_follow else None, data_moments
    )
    resize = (size[0], size[1]) if fixed or input_size is not None else None
    return ImageNetwork(
        backbone,
        feature_dim,
        tasks,
        mean=resolved[0],
        std=resolved[1],
        input_size=resize,
        drop_rate=drop_rate,
    )


def resolve_moments(
    channels: int,
    mean: Moments | None,
    std: Moments | None,
    pretrained_cfg: Mapping[str, Any] | None,
    data_moments: tuple[Moments, Moments] | None = None,
) -> tuple[list[float], list[float]]:
    """The normalisation (x - mean) / std, each by the first of these that is given:

    1. `mean`, `std` of the config; 2. the model's own, when weights are loaded (they were trained with it);
    3. the data set's; 4. 0.5 and 0.5, which maps [0, 1] to [-1, 1].

    One number serves all channels. Three numbers on a grey picture: their mean, since timm sums the three
    filters of a pretrained first layer into one. Three on any other number of channels: repeated in turn, as
    timm repeats filters. Raises UserError for another count, and for std <= 0.
    """
    own: tuple[Moments | None, Moments | None] = (None, None)
    if pretrained_cfg is not None:
        own = pretrained_cfg.get("mean"), pretrained_cfg.get("std")
    data = data_moments or (None, None)
    found: list[list[float]] = []
    for key, explicit, model, dataset in zip(("mean", "std"), (mean, std), own, data, strict=True):
        value = next((v for v in (explicit, model, dataset) if v is not None), 0.5)
        found.append(_per_channel(key, value, channels))
    if min(found[1]) <= 0:
        raise UserError(f"network.std={found[1]}: every value must be above 0")
    return found[0], found[1]


def _per_channel(key: str, value: Moments, channels: int) -> list[float]:
    values = [float(value)] if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    if len(values) == 3:
        return [sum(values) / 3] if channels == 1 else [values[i % 3] for i in range(channels)]
    raise UserError(
        f"network.{key}={values}: {len(values)} values for {channels} channels; give 1 or {channels}"
    )


def _configuration(name: str) -> Any:
    """timm's record of a model (size, moments), None for one that lives on a hub or in a folder."""
    if ":" in name:
        return None
    if not timm.is_model(name):
        raise UserError(
            f"network.name='{name}': timm has no such model; {_nearest_model(name.partition('.')[0])}"
        )
    try:
        return timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture = name.partition(".")[0]
        tags = timm.list_models(architecture, include_tags=True)
        raise UserError(
            f"network.name='{name}': '{architecture}' has no such weights; {nearest(name, tags)}"
        ) from error


def _nearest_model(name: str) -> str:
    hint = nearest(name, timm.list_models())
    # all thousand of them would be no hint
    return hint if hint.startswith("did you mean") else "timm.list_models() lists those it has"


def _create(name: str, arguments: Mapping[str, Any], pretrained: bool = False) -> Any:
    """timm.create_model, with what a user may have got wrong in one line."""
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if pretrained:
            logger.debug("loading of '%s' failed", name, exc_info=True)
            raise UserError(
                f"network.pretrained=true: the weights of '{name}' could not be had ({reason}); connect to the hub once, "
                "or set network.pretrained=false, or give a local file as network.checkpoint"
            ) from error
        raise UserError(
            f"network.name='{name}' with network.options={_options(arguments)}: {reason}"
        ) from error


def _options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key not in ("num_classes", "in_chans")}


def _probe(skeleton: nn.Module, name: str, shape: tuple[int, ...]) -> int:
    """Width of the features of a model on the meta device: exact for every model, and no arithmetic is
    done."""
    try:
        with torch.no_grad():
            features = skeleton.eval()(torch.zeros(2, *shape))
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"network.name='{name}' cannot take pictures of {'x'.join(map(str, shape))} ({reason}); "
            "set network.input_size to a size it can, or name another network"
        ) from error
    skeleton.train()
    if features.ndim != 2:
        raise UserError(
            f"network.name='{name}' gives no pooled features; leave network.options.global_pool alone"
        )
    return features.shape[1]
