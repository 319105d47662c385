"""From a recipe that predicts to a plain network that says the same: what methods do at prediction
becomes weights.

What cannot become weights stays behind, and is said: `Plain.left`, one sentence each.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foundation.randomness import generator
from recipes.engine.recipe import Recipe
from recipes.networks.network import Network
from recipes.predict.predictor import Predictor

CLOSE = 1e-4  # relative to the largest logit, where that is above 1


@dataclass
class Plain:
    """network: what the run reports, as an ordinary network. done: what became weights. left: what
    did not."""

    network: Network
    done: list[str]
    left: list[str]


def merged(predictor: Predictor) -> list[str]:
    """Put the deltas of the reported network into its weights, in place. Returns the keys of those
    that were."""
    network = predictor.network
    before = set(predictor.network.deltas)
    for method in predictor.recipe.composition.methods.values():
        method.fold(network)
    return sorted(before - set(network.deltas))


def folded(predictor: Predictor) -> Plain:
    """The reported network with everything in its weights that weights can hold, in place: the
    predictor itself is of no use afterwards. Its deltas are merged already."""
    recipe = predictor.recipe
    network = predictor.network
    done: list[str] = []
    left = [f"{key} adds to the network what its weights cannot take up" for key in network.deltas]
    left += [f"{method.key} changes the input at prediction" for method in recipe.at["receive"]]
    changes = [method.key for method in recipe.at["infer"]]
    if changes:
        # all found before any is folded: a method may read the head it changes
        found = {
            task: change_of_logits(recipe, task, len(names))
            for task, names in predictor.classes.items()
        }
        heads = {task: network.heads[task] for task in found}
        if (
            all(isinstance(head, nn.Linear) for head in heads.values())
            and None not in found.values()
        ):
            for task, change in found.items():
                network.heads[task] = changed(heads[task], *change)  # type: ignore[misc]
            done += changes
        else:
            left += [
                f"{key} changes the logits in a way that no linear head holds" for key in changes
            ]
    return Plain(network, done, left)


@torch.no_grad()
def change_of_logits(recipe: Recipe, task: str, classes: int) -> tuple[Tensor, Tensor] | None:
    """(a, b) where methods make z into a * z + b, class by class; None where they do anything else.
    Found by trying, so that methods need not say it."""
    device = next(recipe.parameters()).device

    def change(z: Tensor) -> Tensor:
        for method in recipe.at["infer"]:
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
    """A linear head that gives a * z + b where `head` gives z."""
    made = nn.Linear(head.in_features, head.out_features, device=head.weight.device)
    made.weight.copy_(scale.unsqueeze(1) * head.weight)
    made.bias.copy_(shift if head.bias is None else scale * head.bias + shift)
    return made.eval()


def examples(predictor: Predictor, count: int, length: int = 8) -> Any:
    """Made-up inputs, always the same: pictures [count, C, H, W], or texts {"ids", "mask"} [count,
    length], all but the first shorter."""
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


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """max |found - expected| / max(1, max |expected|) over all outputs; infinite where shapes
    differ or one is nan."""
    worst = 0.0
    for name, value in expected.items():
        if found[name].shape != value.shape:
            return float("inf")
        apart = float((found[name] - value).abs().max()) / max(1.0, float(value.abs().max()))
        worst = max(worst, apart) if apart == apart else float("inf")
    return worst
