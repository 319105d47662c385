"""The data of a training step: streams, inputs, outputs, loss terms."""

from recipes.step.step import (
    Embedded,
    Input,
    Net,
    Output,
    Progress,
    PseudoLabels,
    Step,
    Stream,
    Targets,
)

__all__ = [
    "Embedded",
    "Input",
    "Net",
    "Output",
    "Progress",
    "PseudoLabels",
    "Step",
    "Stream",
    "Targets",
]
