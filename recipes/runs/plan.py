"""What a run will do, in words, before it does anything: streams, views, order, slots, parameters,
steps."""

from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import nn

from datamodules.datamodule import StreamDataModule
from datamodules.evaluation_parts import GALLERY
from datamodules.own_tasks import set_lines
from recipes.contract.composition import base_view
from recipes.contract.method import POINTS
from recipes.contract.vocabulary import SLOTS
from recipes.engine.hardware import backend_of, on_gpu, use_channels_last
from recipes.networks.network import Network
from recipes.optimization.build import chosen_impl
from recipes.runs.plan_networks import further_networks, memory_line
from recipes.services.teacher import final_decay
from recipes.setup.assemble import Assembly
from recipes.setup.freezing import frozen_lines
from recipes.setup.length import known_length, length_text
from recipes.setup.remarks import remarks
from recipes.setup.title import recipe_title
from recipes.step.batchnorm import least_momentum, slow_layers

AFTER_THE_RUN = ("finish", "save_artifacts", "merge")


def count(parameters: list[nn.Parameter]) -> str:
    return f"{sum(p.numel() for p in parameters):,}"


def called(node: Any) -> str:
    """A config node as a call, without arguments left at null: `Weak(flip=False, shift=0.125)`."""
    if isinstance(node, ListConfig):
        return f"[{', '.join(called(entry) for entry in node)}]"
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return str(node)
    given = [
        f"{name!s}={called(value)}"
        for name, value in node.items()
        if name != "_target_" and value is not None
    ]
    return f"{str(node['_target_']).rpartition('.')[2]}({', '.join(given)})"


def describe(assembly: Assembly, network: Network, trained: bool = False) -> str:
    """The plan as text. `network` may live on the meta device. trained: its weights come from an
    earlier stage."""
    sections = [
        ("recipe", [recipe_title(assembly.config)]),
        ("data", _data(assembly)),
        ("streams and views", _streams(assembly)),
        ("network", _network(assembly, network)),
        ("methods, in order", _methods(assembly)),
        ("slots", _slots(assembly)),
        ("optimization", _optimization(assembly, network)),
        ("evaluation", _evaluation(assembly)),
    ]
    if noted := remarks(assembly, network, trained):
        sections.append(("remarks", noted))
    if assembly.changes:
        sections.append(
            ("settings changed since the run began", [str(change) for change in assembly.changes])
        )
    lines = []
    for title, content in sections:
        lines += [title, *(f"  {line}" for line in content), ""]
    return "\n".join(lines).rstrip() + "\n"


def _data(assembly: Assembly) -> list[str]:
    info = assembly.datamodule.info
    data = assembly.config.data
    shape = " x ".join(map(str, info.shape)) if info.shape else info.kind
    tasks = assembly.datamodule.tasks or info.tasks
    heads = [f"{task} ({classes or '?'} classes)" for task, classes in tasks.items()]
    size = _size(assembly.datamodule)
    lines = [f"{assembly.chosen('data')}: {shape}, {size}, targets: {', '.join(heads)}"]
    cuts = {
        "labels_per_class": None,
        "labels": None,
        "labeled": None,
        "imbalance_factor": None,
        "label_noise": 0.0,
        "val_fraction": None,
    }
    said = [
        f"{key}={data[key]}"
        for key, neutral in cuts.items()
        if key in data and data[key] != neutral
    ]
    return lines + ([", ".join(said)] if said else []) + _further(assembly.datamodule)


def _further(data: StreamDataModule) -> list[str]:
    """What is evaluated in a way of its own: queries in a gallery, further sets."""
    lines = [
        f"{part}: {data.sizes[part]:,} queries, looked up among {data.sizes[part + GALLERY]:,}"
        for part in ("val", "test")
        if part + GALLERY in data.sizes
    ]
    lines += set_lines(data.own_tasks, data.info, data.set_starts)
    if data.own_tasks and data.mix == "equal":
        lines.append("labeled batches have as many samples of each set")
    for name in data.further:
        parts = [part for stage in ("val", "test") for part in data.evaluated(stage)]
        own = [f"{part} ({data.sizes[part]:,})" for part in parts if part.startswith(f"{name}_")]
        size = f"{data.sizes[name]:,} samples" if data.parts else "further samples"
        known = f"evaluated as {' and '.join(own)}" if own else "none with a label"
        lines.append(f"set {name}: {size}, {known if data.parts else f'evaluated as {name}_test'}")
    return lines


def _size(data: StreamDataModule) -> str:
    """How many samples train, and how many of their labels validation takes, as far as known."""
    if not data.parts:
        size = f"{data.info.train_size or '?'} training samples"
        return size + (f" and {data.info.unlabeled:,} unlabeled" if data.info.unlabeled else "")
    sizes = data.sizes
    size = f"{sizes['labeled']:,} labeled of {sizes['unlabeled']:,} training samples"
    if "val" in sizes:
        size += f", {sizes['val']:,} labeled ones for validation"
    return size


def _streams(assembly: Assembly) -> list[str]:
    sizes = assembly.datamodule.batch_sizes()
    views = assembly.composition.views
    made = assembly.config.data.views
    lines = [
        f"{stream}: batch of {size}, views {', '.join(views[stream])}"
        for stream, size in sizes.items()
    ]
    used = sorted({base_view(name) for names in views.values() for name in names} | {"raw"})
    return lines + [f"{name}: {called(made[name])}" for name in used if made.get(name)]


def _network(assembly: Assembly, network: Network) -> list[str]:
    trainable = [p for p in network.parameters() if p.requires_grad]
    frozen = [p for p in network.parameters() if not p.requires_grad]
    settings = assembly.config.network
    lines = [f"{settings.name}: {count(trainable)} trainable parameters, {count(frozen)} frozen"]
    steps = assembly.trainer.max_steps
    if network.recomputes:
        lines.append("activations are computed again in the backward (gradient checkpointing)")
    lines += frozen_lines(network, steps if known_length(assembly) else 0)
    slow = slow_layers(network, steps)
    if slow and "bn_momentum" not in (settings.options or {}):
        lines.append(
            f"BatchNorm: momentum {slow[0].momentum:g} raised to {least_momentum(steps):.3g} for a "
            f"run of {steps} steps; network.options.bn_momentum sets it"
        )
    lines += further_networks(assembly, network)
    return [*lines, memory_line(assembly.weights_memory(network))]


def _methods(assembly: Assembly) -> list[str]:
    lines = []
    for key, method in assembly.composition.methods.items():
        orders = [
            f"the order of {stream} samples"
            for stream in assembly.composition.declarations[key].orders
        ]
        implemented = [point for point in POINTS if method.implements(point)]
        points = ", ".join([*(p for p in implemented if p not in AFTER_THE_RUN), *orders])
        lines += [
            f"{key}: {called(assembly.config.methods[key])}",
            f"  takes part in: {points or 'evaluation'}",
            *_surveys(assembly, key),
            *_difference(assembly, key),
        ]
    return lines or ["none: cross-entropy on the labeled stream"]


def _surveys(assembly: Assembly, key: str) -> list[str]:
    """Passes over parts of the data beside the steps: each costs a forward of every sample."""
    declaration = assembly.composition.declarations[key]
    lines = []
    for survey in declaration.surveys:
        by = f" by {survey.network}" if survey.network in declaration.networks else ""
        draws = f", {survey.draws} draws" if survey.draws > 1 else ""
        lines.append(f"  surveys {survey.part} samples{by} {survey.when}{draws}")
    return lines


def _difference(assembly: Assembly, key: str) -> list[str]:
    """How a run on several devices differs from one on a single device, by this method."""
    declaration = assembly.composition.declarations[key]
    if declaration.ddp_exact:
        return []
    return [f"  on several devices not identical to one: {declaration.ddp_difference}"]


def _slots(assembly: Assembly) -> list[str]:
    slots = [f"{SLOTS.get(slot, slot)}: {key}" for slot, key in assembly.composition.slots.items()]
    teacher = assembly.composition.teacher
    if teacher:
        warm = ", warmed up" if teacher.warmup else ""
        users = " and ".join(
            key for key, d in assembly.composition.declarations.items() if d.teacher
        )
        most = final_decay(teacher, assembly.trainer.max_steps)
        slots.append(
            f"one averaged network for {users}: decay {most:.6g}{warm}, buffers {teacher.buffers}, "
            "BatchNorm moments "
            f"{teacher.moments}"
        )
    return slots or ["none taken"]


def _computed(assembly: Assembly, network: Network) -> str:
    """How the network is run: `compiled by inductor before its heads, kernels channels-last`."""
    backend = backend_of(assembly.trainer.compile)
    device = torch.device("cuda" if on_gpu(assembly.trainer) else "cpu")
    last = use_channels_last(assembly.trainer.channels_last, network, device)
    compiled = f"compiled by {backend} before its heads" if backend else "not compiled"
    return f"{compiled}, memory {'channels-last' if last else 'contiguous'}"


def updated(assembly: Assembly) -> str:
    """What the optimizer runs on its tensors."""
    device = "cuda" if on_gpu(assembly.trainer) else "cpu"
    form = chosen_impl(
        assembly.optimizer, assembly.trainer.optimizer_impl, device, assembly.precision
    )
    return {"fused": "fused", "foreach": "on lists of tensors", "loop": "tensor by tensor"}.get(
        form, "in its own form"
    )


def _optimization(assembly: Assembly, network: Network) -> list[str]:
    trainer = assembly.trainer
    micro = trainer.accumulate_grad_batches
    each = f", {micro} micro-batches each" if micro > 1 else ""
    steps = "none: the network is evaluated as it is"
    if trainer.max_steps:
        steps = f"{length_text(assembly)}{each}"
    return [
        f"{steps}, precision {assembly.precision}, accelerator {trainer.accelerator}",
        f"network {_computed(assembly, network)}",
        f"{called(assembly.config.optimizer)}, {updated(assembly)}",
        *_scaled_rate(assembly),
        called(assembly.config.scheduler),
    ]


def _scaled_rate(assembly: Assembly) -> list[str]:
    """`learning rate 0.12 for 128 samples a step: 0.03 for 32, linear`; empty if any batch has the
    same."""
    settings = assembly.optimizer
    if settings.base_batch_size is None:
        return []
    samples = assembly.datamodule.batch_size * assembly.trainer.accumulate_grad_batches
    said = f"{assembly.config.optimizer.lr:g} for {settings.base_batch_size}, {settings.lr_scaling}"
    return [f"learning rate {settings.lr:g} for {samples} labeled samples a step: {said}"]


def _evaluation(assembly: Assembly) -> list[str]:
    composition = assembly.composition
    lines = ["at the end on the test part"]
    if assembly.trainer.max_steps:
        every = "ten times in the run"
        if known_length(assembly) or assembly.trainer.val_every:
            every = f"every {assembly.trainer.validation_interval} steps"
        lines = [f"{every} on the validation part, {lines[0]}"]
        lines.append(f"best.ckpt by {assembly.config.monitor}")
    changes = {"transform_input": "inputs", "infer": "logits"}
    changed = {
        what: [key for key, method in composition.methods.items() if method.implements(point)]
        for point, what in changes.items()
    }
    if twins := composition.answering():
        lines.append(
            f"the network and {', '.join(twins)} answer as one, the network alone as raw/…"
        )
    elif composition.evaluates_teacher:
        lines.append("the averaged network is reported, the raw one beside it as raw/…")
    elif any(changed.values()):
        lines.append("the raw network beside it as raw/…")
    lines += [
        f"{what} changed at evaluation by: {', '.join(keys)}"
        for what, keys in changed.items()
        if keys
    ]
    for name, probe in assembly.probes.items():
        on = " and ".join(
            {"val": "the validation part", "test": "the test part"}[part] for part in probe.parts
        )
        lines.append(f"{name}, on {on}: {called(assembly.config.evaluate[name])}")
    return lines
