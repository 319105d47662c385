"""From the weights of a stage to those that the next one begins with.

What a method added in one stage (deltas of LoRA, adapters) stays where the next stage has the same
method; what it lacks is merged into the weights, and refused in the plan if that is impossible.
"""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from safetensors.torch import save_file

from foundation.errors import UserError
from recipes.contract.method import Method
from recipes.networks.network import Network
from recipes.setup.assemble import Assembly, families


def merged_weights(checkpoint: Path, stage: str) -> Path:
    """The file of weights for a stage that lacks methods of the one before, beside the last
    checkpoint of that one."""
    return checkpoint.with_name(f"for_{stage}.safetensors")


def departing(before: Assembly, after: Assembly) -> list[str]:
    """Keys of the methods with surgery that a stage has and the next one lacks."""
    kept = after.composition.methods
    return [m.key for m in before.composition.implementing("surgery") if m.key not in kept]


def check_handover(before: Assembly, after: Assembly, name: str) -> list[str]:
    """Keys of the methods to be merged into the weights between two stages. Raises `UserError` if
    one of them changes the network for good. name: of the stage before."""
    leaving = departing(before, after)
    if not leaving:
        return []
    merged = without(before.meta_network(), before.composition.methods.values(), leaving)
    if structure(merged) == structure(after.meta_network()):
        return leaving
    problem = f"of the stage {name} changes the network in a way that cannot be merged into weights"
    remedy = f"keep {leaving[0]} in this stage too, or give it other weights: network.checkpoint=…"
    family = families(before.config).get(leaving[0], "methods")
    raise UserError(f"{family}={leaving[0]}", problem, remedy)


def without(network: Network, methods: Iterable[Method], leaving: Iterable[str]) -> Network:
    """The network with what these methods added merged into its weights, in place."""
    chosen = set(leaving)
    for method in methods:
        if method.key in chosen:
            method.merge(network)
    return network


def structure(network: Network) -> dict[str, torch.Size]:
    """Shapes by name, without the heads: those that do not fit the next stage start afresh."""
    state = network.state_dict()
    return {key: value.shape for key, value in state.items() if not key.startswith("heads.")}


class MergedWeights(Callback):
    """Writes the last weights without the deltas of some methods, when the run has been
    evaluated."""

    def __init__(self, path: Path, leaving: list[str]):
        self.path = path
        self.leaving = leaving

    def on_test_end(self, trainer: pl.Trainer, recipe: Any) -> None:
        if trainer.is_global_zero:
            self.write(recipe)
        # the next stage reads it on every rank
        trainer.strategy.barrier()

    def write(self, recipe: Any) -> None:
        network = copy.deepcopy(recipe.network)
        without(network, recipe.composition.methods.values(), self.leaving)
        state = {
            name: value.detach().cpu().contiguous().clone()
            for name, value in network.state_dict().items()
        }
        partial = self.path.with_name(f".{self.path.name}.part")
        save_file(state, partial)
        partial.replace(self.path)
