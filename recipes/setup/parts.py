"""Constructs the tasks and the optimizer of a run's recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from datamodules.facts import DatasetFacts
from recipes.engine.recipe import Recipe
from recipes.networks.network import Network
from recipes.optimization.build import build_optimizer
from recipes.optimization.layer_decay import scale_layers
from recipes.optimization.schedulers import build_scheduler
from recipes.setup.assemble import Assembly
from recipes.step.batchnorm import fit_statistics_to_run
from recipes.tasks.classification import ClassificationTask, shot_groups


def make_tasks(
    assembly: Assembly, facts: DatasetFacts, counts: dict[str, torch.Tensor]
) -> list[ClassificationTask]:
    """The task of every head of the data. counts: training samples [C] by task."""
    return [
        ClassificationTask(
            name,
            classes,
            partial=name in facts.missing,
            weight=assembly.config.supervised_weight,
            groups=shot_groups(counts[name], assembly.datamodule.shots),
        )
        for name, classes in facts.classes.items()
    ]


def network_to_train(assembly: Assembly, tasks: dict[str, int]) -> Network:
    """A network for these heads, before surgery."""
    config = assembly.config
    network = assembly.build_network(tasks)
    if "bn_momentum" not in (config.network.options or {}):
        fit_statistics_to_run(network, assembly.trainer.max_steps)
    if config.supervised_weight == 0:
        # the heads get no gradient, and DDP waits for the gradient of every trainable parameter
        network.heads.requires_grad_(False)
    return network


def make_optimizer(assembly: Assembly, recipe: Recipe) -> Any:
    """Optimizer and scheduler of the recipe, with the parameter groups of the methods."""
    settings = assembly.trainer
    if assembly.optimizer.layer_decay < 1:
        for network in recipe.networks_in_training():
            scale_layers(network.backbone, assembly.optimizer.layer_decay)
    groups: list[dict[str, Any]] = []
    for method in recipe.composition.methods.values():
        groups += method.parameter_groups(recipe)
    optimizer = build_optimizer(
        recipe,
        assembly.optimizer,
        with_twins(groups, recipe),
        settings.optimizer_impl,
        assembly.precision,
    )
    return optimizer, build_scheduler(optimizer, assembly.scheduler, settings.max_steps)


def with_twins(groups: Sequence[Mapping[str, Any]], recipe: Recipe) -> list[Mapping[str, Any]]:
    """The groups, in which the parameters of twins follow those of the trained network that they
    correspond to."""
    trained, *twins = recipe.networks_in_training()
    if not twins:
        return [*groups]
    names = {id(p): name for name, p in trained.named_parameters()}
    complete: list[Mapping[str, Any]] = []
    for group in groups:
        own = list(group["params"])
        shared = [names[id(p)] for p in own if id(p) in names]
        theirs = [twin.get_parameter(name) for twin in twins for name in shared]
        complete.append({**group, "params": [*own, *theirs]})
    return complete
