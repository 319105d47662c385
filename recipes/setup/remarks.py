"""What a run does that its user may not have meant: allowed, and said before it begins, in the plan
and on the page.

A setting that leaves a method without effect, a warm-up that never ends, frozen weights that nobody
has trained, a method of the recipe that the command replaced.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

from foundation.files import printable
from recipes.contract.method import Method
from recipes.networks.network import Network
from recipes.setup.assemble import Assembly
from recipes.setup.freezing import late_lines
from recipes.setup.length import known_length
from recipes.setup.title import replaced_methods
from recipes.setup.view_checks import enlarged


def remarks(assembly: Assembly, network: Network, trained: bool = False) -> list[str]:
    """All remarks, one a line. trained: the weights come from an earlier stage."""
    config = assembly.config
    lines = list(replaced_methods(config))
    for key, method in assembly.composition.methods.items():
        lines += idle_lines(f"methods.{key}", method, config.methods[key])
        lines += [f"methods.{key}: {line}" for line in method.remarks()]
    warmup = assembly.scheduler.warmup_steps
    steps = assembly.trainer.max_steps if known_length(assembly) else 0
    if steps and warmup > steps:
        lines.append(
            f"scheduler.warmup_steps={warmup}: the run has {steps} steps, so the learning rate "
            "never reaches optimizer.lr"
        )
    late = [m for m in getattr(assembly.scheduler, "milestones", ()) if m >= max(steps, 1)]
    if steps and late:
        lines.append(f"scheduler.milestones: {late[0]} is not reached, the run has {steps} steps")
    lines += late_lines(network, steps)
    lines += early_tokens(network)
    if not trained:
        lines += frozen_random_weights(config, network)
    return [*lines, *data_remarks(assembly)]


def early_tokens(network: Network) -> Iterator[str]:
    """The mean over the tokens of a decoder."""
    if getattr(network, "causal", False) and getattr(network, "pooling", "") == "mean":
        yield (
            f"network.pooling=mean: tokens of {type(network.backbone).__name__} see only those "
            "before them; network.pooling=last takes the last one, which has seen the whole text"
        )


def data_remarks(assembly: Assembly) -> Iterator[str]:
    """What the data have that a run leaves aside or measures wrongly; known once they are read."""
    data = assembly.datamodule
    if remark := enlarged(data):
        yield remark
    unused = data.without_label or data.info.unlabeled
    if unused and "unlabeled" not in data.streams:
        yield (
            f"{unused:,} training samples have no label, and no method of this run uses them; "
            "recipe=fixmatch does"
        )
    shared, first = data.shared_with_test()
    if shared:
        yield (
            f"{shared:,} training samples are in the test part as well, the first is "
            f"'{short(first)}': numbers on the test part are too good"
        )
    for name in data.transductive:
        yield (
            f"data.unlabeled={name}: its test samples are trained on, without their labels, so "
            f"{name}_test tells nothing of new samples"
        )


def short(text: str, length: int = 60) -> str:
    text = " ".join(printable(text).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def idle_lines(key: str, method: Method, node: Mapping[str, Any]) -> list[str]:
    """Settings of a method that leave it without effect. node: its config, with values as the user
    wrote them."""
    names = method.idle_settings()
    return [f"{key}.{name}={node[name]}: with this value {key} changes nothing" for name in names]


def frozen_random_weights(config: DictConfig, network: Network) -> Iterator[str]:
    """Weights of the backbone that are neither trained nor loaded."""
    if config.network.pretrained or config.network.checkpoint is not None:
        return
    attached = {id(p) for module in network.deltas.values() for p in module.parameters()}
    own = [p for p in network.backbone.parameters() if id(p) not in attached]
    frozen = sum(p.numel() for p in own if not p.requires_grad)
    if frozen:
        yield (
            f"{frozen:,} weights of the network are frozen at random values: load some by "
            "network.pretrained=true or network.checkpoint=FILE"
        )
