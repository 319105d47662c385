"""timm with our own networks: importing this module registers them for `timm.create_model`.

It is imported only where timm is needed, because timm, with torchvision and wandb, takes a second
to import.
"""

from collections.abc import Callable
from typing import Any

import timm as timm  # re-exported
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from recipes.networks.own import OWN
from recipes.networks.pooled import PooledNet

default_cfgs = generate_default_cfgs({name: dict(own.record) for name, own in OWN.items()})


def _entrypoint(name: str) -> Callable[..., PooledNet]:
    own = OWN[name]

    def create(pretrained: bool = False, **arguments: Any) -> PooledNet:
        return build_model_with_cfg(own.network, name, pretrained, **{**own.arguments, **arguments})

    create.__name__ = name  # timm registers a function under its name
    return create


for _name in OWN:
    register_model(_entrypoint(_name))
