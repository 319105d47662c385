"""The networks of a run, as the plan says them: those beside the trained one, and their memory."""

from recipes.networks.network import Network, parameter_counts
from recipes.networks.requests import Snapshot, Twin
from recipes.setup.assemble import Assembly


def further_networks(assembly: Assembly, network: Network) -> list[str]:
    """The networks beside the trained one, each in a line."""
    composition = assembly.composition
    trained = f"{parameter_counts(network)[0]:,}"
    lines = []
    for name, request in composition.networks.items():
        keys = [key for key, d in composition.declarations.items() if name in d.networks]
        what = f"{name}, for {' and '.join(keys)}: "
        if isinstance(request, Twin):
            what += f"a second network of {trained} trainable parameters, trained with the first"
            what += ", answers with it" if name in composition.answering() else ""
        elif isinstance(request, Snapshot):
            what += f"a frozen copy of the network, {trained} parameters"
        else:
            what += f"the network of the run {request.run}"
        lines.append(what)
    return lines


def memory_line(sizes: dict[str, int]) -> str:
    """Of all networks together, and of each where there are several."""
    parts = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in sizes.items())
    whole = f"{sum(sizes.values()) / 2**20:,.1f} MiB on a device"
    of_each = f" ({parts})" if len(sizes) > 1 else ""
    return f"weights, gradients and optimizer state: {whole}{of_each}"
