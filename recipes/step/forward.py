"""One forward over everything a step names: concatenated, shared where equal, without a graph where
none is needed."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from recipes.step.batchnorm import BatchNorms
from recipes.step.step import Embedded, Input, Output


def concatenate(parts: list[Embedded]) -> Embedded:
    """One batch of many; texts are padded on the right to the longest."""
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
    features = output.features.split_with_sizes(sizes)
    logits = {task: values.split_with_sizes(sizes) for task, values in output.logits.items()}
    return [
        Output(f, {task: parts[i] for task, parts in logits.items()})
        for i, f in enumerate(features)
    ]


def _run(
    net: nn.Module, inputs: list[Input], representations: list[Tensor] | None = None
) -> dict[str, Output]:
    """Forward inputs in one pass; inputs that hold the very same tensor are forwarded once. The
    features of the whole pass are added to `representations`, where they have a graph."""
    unique: dict[int, Embedded] = {}
    for entry in inputs:
        unique.setdefault(id(entry.embedded.x), entry.embedded)
    whole = net(concatenate(list(unique.values())))
    if representations is not None and whole.features.requires_grad:
        representations.append(whole.features)
    outputs = split(whole, [e.x.shape[0] for e in unique.values()]) if len(unique) > 1 else [whole]
    found = dict(zip(unique, outputs, strict=True))
    return {entry.name: found[id(entry.embedded.x)] for entry in inputs}


def forward_inputs(
    inputs: dict[str, Input],
    student: nn.Module,
    teacher: nn.Module | None,
    norms: BatchNorms,
    representations: list[Tensor] | None = None,
) -> dict[str, Output]:
    """Outputs of all inputs by name, in as few forwards as their meaning allows. The features of
    the student's forwards with a graph are added to `representations`.

    Where the student normalises with batch statistics, all inputs that update them share one
    forward, whether they need a graph or not. Without such layers a sample's output does not depend
    on its company, and inputs that need no graph run apart and cost no backward. Inputs that must
    not update running statistics run apart where that matters.
    """
    together = norms.use_batch_statistics
    groups: dict[str, list[Input]] = {"graph": [], "frozen": [], "no_graph": [], "teacher": []}
    for entry in inputs.values():
        groups[_group(entry, together)].append(entry)
    outputs: dict[str, Output] = {}
    if groups["graph"]:
        outputs |= _run(student, groups["graph"], representations)
    if groups["frozen"]:
        with norms.frozen():
            outputs |= _run(student, groups["frozen"], representations)
    with torch.no_grad():
        if groups["no_graph"]:
            outputs |= _run(student, groups["no_graph"])
        if groups["teacher"] and teacher is not None:
            outputs |= _run(teacher, groups["teacher"])
    return outputs


def _group(entry: Input, batch_statistics: bool) -> str:
    """The forward that an input belongs to."""
    if entry.network == "teacher":
        return "teacher"
    if batch_statistics:
        return "graph" if entry.updates_bn_stats else "frozen"
    return "graph" if entry.grad else "no_graph"
