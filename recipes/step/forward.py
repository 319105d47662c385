"""The forward of all inputs of a step: concatenated, equal inputs once, without a graph where none
is needed."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from recipes.step.batchnorm import BatchNorms
from recipes.step.step import Embedded, Input, Output


def concatenate(parts: list[Embedded]) -> Embedded:
    """Several batches as one; texts are padded on the right to the longest."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].mask is None:
        return Embedded(torch.cat([part.x for part in parts]))
    length = max(part.x.shape[1] for part in parts)
    x = [pad(part.x, (0, 0, 0, length - part.x.shape[1])) for part in parts]
    mask = [
        pad(part.mask, (0, length - part.x.shape[1])) for part in parts if part.mask is not None
    ]
    return Embedded(torch.cat(x), torch.cat(mask))


def split(output: Output, sizes: list[int]) -> list[Output]:
    """The inverse of `concatenate`, on outputs."""
    parts = output.features.split_with_sizes(sizes)
    taps = {name: values.split_with_sizes(sizes) for name, values in output.taps.items()}
    outputs = []
    for i, features in enumerate(parts):
        own = {name: values[i] for name, values in taps.items()}
        outputs.append(Output(features, {}, own))
    for task, logits in output.logits.items():
        for part, values in zip(outputs, logits.split_with_sizes(sizes), strict=True):
            part.logits[task] = values
    return outputs


def _run(
    net: nn.Module, inputs: list[Input], representations: list[Tensor] | None = None
) -> dict[str, Output]:
    """Forward inputs in one pass; inputs that share one tensor object are forwarded once. The
    features of the whole pass are added to `representations` if they have a graph."""
    unique: dict[int, Embedded] = {}
    for entry in inputs:
        unique.setdefault(id(entry.embedded.x), entry.embedded)
    whole = net(concatenate(list(unique.values())))
    if representations is not None and whole.features.requires_grad:
        representations.append(whole.features)
    outputs = [whole]
    if len(unique) > 1:
        outputs = split(whole, [embedded.x.shape[0] for embedded in unique.values()])
    by_tensor = dict(zip(unique, outputs, strict=True))
    return {entry.name: by_tensor[id(entry.embedded.x)] for entry in inputs}


class Forwarding(NamedTuple):
    """A network beside the student. norms: its batch normalizations. trained: its inputs get a
    graph, as the student's do."""

    net: nn.Module
    norms: BatchNorms
    trained: bool


def forward_inputs(
    inputs: dict[str, Input],
    student: nn.Module,
    teacher: nn.Module | None,
    norms: BatchNorms,
    representations: list[Tensor] | None = None,
    others: Mapping[str, Forwarding] | None = None,
) -> dict[str, Output]:
    """Outputs of all inputs by name, in as few forwards as possible without changing the result.
    The features of the student's forwards with a graph are added to `representations`. others: the
    networks beside student and teacher, by name.

    If a trained network normalizes with batch statistics, all its inputs that update them share one
    forward, whether they need a graph or not, and inputs that must not update them share another.
    Without such layers a sample's output does not depend on the other samples, and inputs that need
    no graph are forwarded without one.
    """
    by_network: dict[str, list[Input]] = {"student": []}
    for entry in inputs.values():
        by_network.setdefault(entry.network, []).append(entry)
    outputs = _forward_trained(by_network.pop("student"), student, norms, representations)
    for name, entries in by_network.items():
        if name == "teacher":
            if teacher is not None:
                outputs |= _forward_fixed(entries, teacher)
            continue
        if others is None or name not in others:
            raise ValueError(f"input '{entries[0].name}' is for '{name}', which no method declares")
        other = others[name]
        if other.trained:
            outputs |= _forward_trained(entries, other.net, other.norms)
        else:
            outputs |= _forward_fixed(entries, other.net)
    return outputs


def _forward_trained(
    inputs: list[Input],
    net: nn.Module,
    norms: BatchNorms,
    representations: list[Tensor] | None = None,
) -> dict[str, Output]:
    """Outputs of inputs of a network that trains."""
    together = norms.use_batch_statistics
    groups: dict[str, list[Input]] = {"graph": [], "frozen": [], "no_graph": []}
    for entry in inputs:
        groups[_group(entry, together)].append(entry)
    outputs: dict[str, Output] = {}
    if groups["graph"]:
        outputs |= _run(net, groups["graph"], representations)
    if groups["frozen"]:
        with norms.frozen():
            outputs |= _run(net, groups["frozen"], representations)
    if groups["no_graph"]:
        with torch.no_grad():
            outputs |= _run(net, groups["no_graph"])
    return outputs


def _forward_fixed(inputs: list[Input], net: nn.Module) -> dict[str, Output]:
    """Outputs of inputs of a network that does not train."""
    with torch.no_grad():
        return _run(net, inputs)


def _group(entry: Input, batch_statistics: bool) -> str:
    """The forward that an input belongs to."""
    if batch_statistics:
        return "graph" if entry.updates_bn_stats else "frozen"
    return "graph" if entry.grad else "no_graph"
