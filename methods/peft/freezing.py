"""Which parameters of a network are trained: of the backbone only those that methods choose; the
heads always."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from recipes.networks.network import Network, eval_mode


def freeze(network: Network) -> None:
    """Freeze the backbone's parameters, and keep its batch normalisations in evaluation mode:
    running statistics that change are training, too.

    Done once for all methods of a run: a second call would freeze parameters that a method has
    already chosen.
    """
    if network.frozen:
        return
    network.frozen = True
    network.backbone.requires_grad_(False)
    modules = network.backbone.modules()
    network.keep_eval_only([module for module in modules if isinstance(module, _BatchNorm)])


def on_meta_device(network: nn.Module) -> bool:
    """Whether the network has shapes only, as in the plan. Such a network is never run: not all
    encoders support it."""
    return next(network.parameters()).is_meta


@contextmanager
def trial_forward(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and the state of the random generators restored afterwards."""
    with eval_mode(network), torch.random.fork_rng(devices=[]):
        yield
