"""Which weights of a recipe no step changes."""

from torch import nn

from recipes.networks.network import Network


def frozen_names(recipe: nn.Module, network: Network) -> list[str]:
    """Names in the recipe of what is frozen in the network's backbone for the whole run, by the
    names of an averaged network that shares its parameters as well; none where nobody has frozen
    it."""
    if not (getattr(network, "frozen", False) or getattr(network, "freezing", None)):
        return []
    waiting = {id(network.get_parameter(name)) for name in network.waiting}
    backbone = network.backbone.parameters()
    frozen = {id(p) for p in backbone if not p.requires_grad and id(p) not in waiting}
    named = recipe.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if id(parameter) in frozen]
