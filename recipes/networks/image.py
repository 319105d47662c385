"""Image networks: any timm model after a normalization."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundation.errors import UserError, first_line, nearest
from foundation.hub import one_try
from recipes.networks.meta import on_meta
from recipes.networks.moments import Moments, resolve_moments
from recipes.networks.network import Network
from recipes.networks.own import OWN
from recipes.step.step import Embedded

logger = logging.getLogger(__name__)

# feature widths that this process has measured, the oldest first
_WIDTHS: dict[Hashable, int] = {}
_MOST_WIDTHS = 256
# arguments of timm that are set elsewhere
_OF_THE_DATA = {
    "num_classes": "the data has the classes, and every task a head of its own",
    "in_chans": "the data has the channels",
    "pretrained": "use network.pretrained",
    "checkpoint_path": "use network.checkpoint",
    "features_only": "heads need pooled features",
}


class ImageNetwork(Network):
    """timm backbone (num_classes=0) on images in [0, 1]; `features` normalizes first.

    backbone: module from [N, C, H, W] to [N, feature_dim].
    mean, std: [C] each, for pixels in [0, 1]; buffers, so that they are saved with the weights.
    input_size: (height, width) of the backbone; other images are resized (bilinear, antialiased)
        after normalization. None accepts images of any size.
    shape: (C, H, W) of `example`.

    The memory format of the input is kept: channels-last images stay channels-last.
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
        shape: tuple[int, int, int] | None = None,
    ):
        super().__init__(feature_dim, tasks, drop_rate)
        self.backbone = backbone
        self.input_size = input_size
        self.shape = shape or (len(mean), *(input_size or (32, 32)))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def embed(self, view: Tensor) -> Embedded:
        return Embedded(view)

    def example(self) -> Embedded:
        generator = torch.Generator("cpu").manual_seed(0)
        pixels = torch.rand(2, *self.shape, generator=generator, device="cpu")
        return Embedded(pixels.to(self.mean.device))

    def features(self, embedded: Embedded) -> Tensor:
        x = (embedded.x - self.mean) / self.std
        if self.input_size is not None and tuple(x.shape[-2:]) != self.input_size:
            x = F.interpolate(
                x, self.input_size, mode="bilinear", align_corners=False, antialias=True
            )
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
    """An ImageNetwork around the timm model `name` for images of `shape` (C, H, W).

    input_size: side, or (height, width), of the backbone's input. None: the image's own, except for
        a pretrained model of fixed size (e.g. a ViT), which keeps the size of its weights.
    data_moments: (mean, std) of the data set.
    weights_follow: a checkpoint will be loaded, so that the normalization is chosen as for
        pretrained weights.

    Raises UserError for an unknown name or option, an unsupported size, and unavailable weights.
    """
    channels = shape[0]
    known = _configuration(name)
    if pretrained:
        _check_pretrained(name, known)
    fixed = known is not None and known.fixed_input_size
    own_size = known.input_size[1:] if fixed and pretrained else shape[1:]
    height, width = _size(input_size) if input_size is not None else own_size
    for key, source in _OF_THE_DATA.items():
        if key in (options or {}):
            problem = f"is not an option: {source}"
            raise UserError(f"network.options.{key}", problem, "leave it out")
    arguments = {"num_classes": 0, "in_chans": channels, **(options or {})}
    if fixed:
        arguments.setdefault("img_size", (height, width))
    feature_dim = _feature_width(name, arguments, (channels, height, width))
    backbone = _create(name, arguments, pretrained=pretrained and not on_meta())
    own_moments = backbone.pretrained_cfg if pretrained or weights_follow else None
    mean, std = resolve_moments(channels, mean, std, own_moments, data_moments)
    resize = (height, width) if fixed or input_size is not None else None
    return ImageNetwork(
        backbone,
        feature_dim,
        tasks,
        mean=mean,
        std=std,
        input_size=resize,
        drop_rate=drop_rate,
        shape=(channels, height, width),
    )


def _size(given: int | Sequence[int]) -> tuple[int, int]:
    size = [given, given] if isinstance(given, int) else list(given)
    if len(size) != 2 or min(size) < 1:
        raise UserError(
            f"network.input_size={size}: expected one side or [height, width], each at least 1"
        )
    return size[0], size[1]


def _configuration(name: str) -> Any:
    """timm's record of a model (size, moments); None for one of ours, and for one on a hub or in a
    folder. Raises UserError if timm does not know the model or its weights."""
    if ":" in name or name in OWN:
        return None
    from recipes.networks.in_timm import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(name):
        hint = nearest(architecture, timm.list_models())
        if not hint.startswith("did you mean"):  # all thousand names would not help
            hint = "timm.list_models() lists all models"
        raise UserError(f"network.name='{name}': timm has no such model; {hint}")
    try:
        return timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        hint = nearest(name, timm.list_models(architecture, include_tags=True))
        raise UserError(
            f"network.name='{name}': '{architecture}' has no such weights; {hint}"
        ) from error


def _check_pretrained(name: str, known: Any) -> None:
    """Raise UserError if nobody has published weights of a model. known: timm's record of it."""
    if name in OWN:
        remedy = "load your own by network.checkpoint=FILE, or choose a model of timm"
    elif known is not None and not known.has_weights:
        remedy = "timm.list_models(pretrained=True) lists the models that have some"
    else:
        return
    problem = f"'{name}' has no pretrained weights, but network.pretrained=true"
    raise UserError("network.name", problem, remedy)


def _create(name: str, arguments: Mapping[str, Any], pretrained: bool = False) -> Any:
    """One of ours, or timm.create_model. Raises UserError if that fails."""
    try:
        if name in OWN and not pretrained:
            return OWN[name].create(name, **arguments)
        from recipes.networks.in_timm import timm

        if not pretrained and ":" not in name:
            return timm.create_model(name, **arguments)
        with one_try(name):
            return timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:
        logger.debug("creating '%s' failed", name, exc_info=True)
        if pretrained or ":" in name:
            raise UserError(
                f"network.pretrained={str(pretrained).lower()}: '{name}' could not be loaded "
                f"({first_line(error)}); connect to the hub once, or set network.pretrained=false, "
                "or use a local file as network.checkpoint"
            ) from error
        own = ("num_classes", "in_chans")
        options = {key: value for key, value in arguments.items() if key not in own}
        raise UserError(
            f"network.name='{name}' with network.options={options}: {first_line(error)}"
        ) from error


def _feature_width(name: str, arguments: Mapping[str, Any], shape: tuple[int, int, int]) -> int:
    """Width of a model's features for pictures of this shape (C, H, W), measured once a process."""
    key = (name, _frozen(arguments), shape)
    # files in a folder or on a hub may change between two calls
    remembered = ":" not in name and _hashable(key)
    if remembered and key in _WIDTHS:
        return _WIDTHS[key]
    with torch.device("meta"):
        width = _probe(_create(name, arguments), name, shape)
    if remembered:
        _WIDTHS[key] = width
        while len(_WIDTHS) > _MOST_WIDTHS:
            del _WIDTHS[next(iter(_WIDTHS))]
    return width


def _frozen(value: Any) -> Any:
    """Plain containers as tuples; values carry their type, since 1, 1.0 and True are one key."""
    if isinstance(value, Mapping):
        return tuple((name, _frozen(entry)) for name, entry in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(entry) for entry in value)
    return type(value), value


def _hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _probe(skeleton: nn.Module, name: str, shape: tuple[int, ...]) -> int:
    """Width of a model's features, measured on the meta device: exact for every model, and no
    values are computed."""
    try:
        with torch.no_grad():
            modes = [skeleton.train(mode)(torch.zeros(2, *shape)) for mode in (True, False)]
    except Exception as error:
        raise UserError(
            f"network.name='{name}' does not accept images of {'x'.join(map(str, shape))} "
            f"({first_line(error)}); set network.input_size to a size that it accepts, or use "
            "another network"
        ) from error
    if not all(isinstance(features, Tensor) for features in modes):
        # e.g. auxiliary logits
        raise UserError(
            f"network.name='{name}'",
            "returns more than one tensor of features in training",
            "remove what asks for more (aux_logits, features_only) from network.options",
        )
    features = modes[-1]
    if features.ndim != 2:
        raise UserError(
            f"network.name='{name}': no pooled features; remove global_pool from network.options"
        )
    return features.shape[1]
