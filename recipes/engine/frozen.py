"""Which weights of a recipe no step changes."""

from torch import nn


def frozen_names(recipe: nn.Module, network: nn.Module) -> list[str]:
    """Names in the recipe of the network's frozen backbone, by the names of an averaged network
    that shares its parameters as well; none where no method has frozen it."""
    if not getattr(network, "frozen", False):
        return []
    backbone = network.get_submodule("backbone")
    frozen = {id(p) for p in backbone.parameters() if not p.requires_grad}
    named = recipe.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if id(parameter) in frozen]
