"""What of a network still learns: nothing of the backbone but what methods choose; the heads
always."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from recipes.networks.network import Network, eval_mode


def freeze(network: Network) -> None:
    """The backbone's parameters stop learning, and its batch normalisations stay in evaluation
    mode: statistics that go on moving are training, too. Once for all methods of a run: a second
        one finds chosen parameters already."""
    if network.frozen:
        return
    network.frozen = True
    network.backbone.requires_grad_(False)
    keep_eval_only(
        network, [module for module in network.backbone.modules() if isinstance(module, _BatchNorm)]
    )


def keep_eval_only(network: Network, modules: Sequence[nn.Module]) -> None:
    """Evaluation mode for good."""
    network.eval_only += modules
    for module in modules:
        module.eval()


def on_meta_device(network: nn.Module) -> bool:
    """Whether this is the plan's network, without numbers: not all encoders can be run so, and none
    is."""
    return next(network.parameters()).is_meta


@contextmanager
def trial_forward(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, without any effect on random numbers."""
    with eval_mode(network), torch.random.fork_rng(devices=[]):
        yield
