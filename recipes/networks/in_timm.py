"""timm with our own networks among its models: importing this registers them, so that
`timm.create_model` knows them.

It is imported where timm is asked for something: timm, with torchvision and wandb, takes a second
to import.
"""

from collections.abc import Callable
from typing import Any

import timm as timm  # handed on, for those who need both
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
