"""From a recipe to an ordinary network with the same outputs: what methods do at prediction is
merged into the weights.

`Folded.left` has a sentence for whatever cannot be merged.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foundation.randomness import generator
from recipes.engine.committee import members_of
from recipes.engine.recipe import Recipe
from recipes.networks.network import Network
from recipes.predict.predictor import Predictor

CLOSE = 1e-4  # largest allowed difference, relative to the largest logit if that is above 1


@dataclass
class Folded:
    """network: the reported network, as an ordinary network. done: keys of merged methods. left:
    sentences on what could not be merged."""

    network: Network
    done: list[str]
    left: list[str]


def merged(predictor: Predictor) -> list[str]:
    """Merge the deltas of the reported network into its weights, in place; where several networks
    answer, those of each. Returns the keys of the merged ones."""
    keys: set[str] = set()
    for network in members_of(predictor.network):
        before = set(network.deltas)
        for method in predictor.recipe.composition.methods.values():
            method.merge(network)
        keys |= before - set(network.deltas)
    return sorted(keys)


def folded(predictor: Predictor) -> Folded:
    """The reported network with all that is possible merged into its weights, in place: do not use
    the predictor afterwards. Its deltas must have been merged before."""
    recipe = predictor.recipe
    network = predictor.network
    done: list[str] = []
    left = [f"{key} adds modules that cannot be merged into the weights" for key in network.deltas]
    left += [
        f"{method.key} changes the input at prediction"
        for method in recipe.methods_at["transform_input"]
    ]
    changes = [method.key for method in recipe.methods_at["infer"]]
    if changes:
        # all of them before any head is changed: a method may read the head
        found = {}
        for task, names in predictor.classes_by_task.items():
            found[task] = change_of_logits(recipe, task, len(names))
        heads = {task: network.heads[task] for task in found}
        linear = all(isinstance(head, nn.Linear) for head in heads.values())
        if linear and None not in found.values():
            for task, change in found.items():
                network.heads[task] = changed(heads[task], *change)  # type: ignore[misc]
            done += changes
        else:
            left += [
                f"{key} changes the logits in a way that no linear head can represent"
                for key in changes
            ]
    return Folded(network, done, left)


@torch.no_grad()
def change_of_logits(recipe: Recipe, task: str, classes: int) -> tuple[Tensor, Tensor] | None:
    """(a, b) if methods change z to a * z + b, class by class; None for any other change. Measured,
    so that methods need not declare it."""
    device = next(recipe.parameters()).device

    def change(z: Tensor) -> Tensor:
        for method in recipe.methods_at["infer"]:
            z = method.infer(z, task, recipe)
        return z

    probe = torch.randn(16, classes, generator=generator("fold", task)).to(device)
    try:
        shift = change(torch.zeros(1, classes, device=device))
        scale = change(torch.ones(1, classes, device=device)) - shift
        found = change(probe)
    except RuntimeError:
        return None
    expected = probe * scale + shift
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
        return None
    return scale[0], shift[0]


@torch.no_grad()
def changed(head: Any, scale: Tensor, shift: Tensor) -> nn.Linear:
    """A linear head with output a * z + b for the output z of `head`."""
    made = nn.Linear(head.in_features, head.out_features, device=head.weight.device)
    made.weight.copy_(scale.unsqueeze(1) * head.weight)
    made.bias.copy_(shift if head.bias is None else scale * head.bias + shift)
    return made.eval()


def examples(predictor: Predictor, count: int, length: int = 8) -> Any:
    """Synthetic inputs, always the same: images [count, C, H, W], or texts {"ids", "mask"}
    [count, length] of random lengths, the first with the full length."""
    random = generator("export", count, length)
    if predictor.shape is not None:
        return torch.rand(count, *predictor.shape, generator=random)
    size = int(getattr(predictor.network, "vocab_size", 2))
    lengths = torch.randint(1, length + 1, (count, 1), generator=random)
    lengths[0] = length
    mask = torch.arange(length) < lengths
    pad = predictor.tokenizer.pad if predictor.tokenizer is not None else 0
    ids = torch.randint(size, (count, length), generator=random)
    return {"ids": torch.where(mask, ids, pad), "mask": mask}


def stored(network: nn.Module) -> dict[str, Tensor]:
    """The state dict in the form that safetensors takes: on the CPU, contiguous, nothing shared."""
    state = network.state_dict()
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """max |found - expected| / max(1, max |expected|) over all outputs; infinite if shapes differ
    or a value is NaN."""
    worst = 0.0
    for name, value in expected.items():
        if found[name].shape != value.shape:
            return float("inf")
        apart = float((found[name] - value).abs().max()) / max(1.0, float(value.abs().max()))
        worst = float("inf") if math.isnan(apart) else max(worst, apart)
    return worst
