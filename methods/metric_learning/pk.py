"""Batches of P classes with K samples each, as Hermans, Beyer and Leibe, In defense of the triplet
loss for person re-identification, 2017, arXiv 1703.07737, train on."""

from typing import Annotated

from pydantic import Field

from datamodules.pk_order import Classes, MakePKOrder
from recipes.contract import Declaration, Method


class PK(Method):
    """The labeled stream comes in batches of P = batch size / K classes with K samples each.

    A loss on pairs learns nothing from a batch without positives, and shuffled batches of many
    classes have few. Every class comes equally often, and every sample of a class; a class of fewer
    than K samples repeats them.

    samples_per_class: samples K of a class in a batch, at least 2; 4 (Hermans et al.).
    classes: frequency of the classes: `uniform`, or `proportional` to their samples, for
        long-tailed data.
    task: task whose classes these are; null: the first.
    class_split: give each rank whole classes, where P divides by the ranks; false: some samples of
        every class. Losses see the global batch either way.
    """

    def __init__(
        self,
        samples_per_class: Annotated[int, Field(ge=2)] = 4,
        classes: Classes = "uniform",
        task: str | None = None,
        class_split: bool = True,
    ):
        self.samples_per_class = samples_per_class
        self.classes = classes
        self.task = task
        self.class_split = class_split

    def declare(self) -> Declaration:
        order = MakePKOrder(
            self.samples_per_class, self.classes, not self.class_split, self.task, self.key
        )
        return Declaration(slots=("sampler",), orders={"labeled": order})
