"""Ladder side-tuning. Sung, Cho and Bansal, LST: Ladder Side-Tuning for Parameter and Memory
Efficient Transfer Learning, NeurIPS 2022, arXiv 2206.06522."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.types import Count, Scale, Steps
from methods.peft.fisher import sample_losses
from methods.peft.freezing import on_meta_device, trial_forward
from methods.peft.ladder import Ladder, SideBlock
from methods.peft.side_pruning import magnitudes
from methods.peft.sites import existing, find_blocks, find_sites
from methods.peft.surgeon import PEFTMethod
from recipes.contract import Clock, Context, Declaration, Survey
from recipes.networks.network import Network
from recipes.networks.taps import INPUT, tapped

LEAST_WIDTH = 4  # of the side network
FISHER_BATCH = 64  # samples whose mean gradient is squared


class LadderSideTuning(PEFTMethod):
    """s_0 = D_0 h_0, s_i = g_i(μ_i s_{i-1} + (1 - μ_i) D_i h_i), μ_i = sigmoid(α_i / T): a narrow
    network beside a frozen one reads its states h_i, and U LN(s_L) replaces the last.

    No gradient flows through the backbone, which runs without a graph: the memory of a step is that
    of inference and of the side network. What follows the last block (norm, pooling) and the heads
    read U LN(s_L). Where the gradient of the input is asked for (attacks, VAT), that forward builds
    a graph. Differs from the authors' code: side blocks are pre-norm whatever the backbone's are,
    their heads are at least 8 wide, and they start at random unless `init` says otherwise. A block
    that runs several times (ALBERT) has one rung. Learning rates: AdamW 3e-3 (authors).

    reduction: width of the backbone over that of the side network, at least 1; 8.
    side_block: blocks g_i: `transformer`, attention and MLP (paper), or `mlp`, the MLP alone.
    temperature: T of the gates, above 0; 0.1.
    init: start of the side network: `random`, `magnitude`, or `fisher` (authors). The last two are
        rows and columns of the backbone's weights with the largest sum of |w| or of Fisher
        information. `fisher`
        surveys the labeled samples before the first step, with a backward through the backbone.
        Projections then select the same numbers of every state, and norms start afresh.
    drop_every: of so many blocks the first has no rung; 0: all have one (authors' T5-base: 4).
    load: delta saved by another run, to start from; null: none.
    """

    preserves: bool = False

    def __init__(
        self,
        reduction: Count = 8,
        side_block: SideBlock = "transformer",
        temperature: Scale = 0.1,
        drop_every: Steps = 0,
        init: Literal["random", "magnitude", "fisher"] = "random",
        load: str | None = None,
    ):
        self.init = init
        self.reduction = reduction
        self.side_block = side_block
        self.temperature = temperature
        self.drop_every = drop_every
        self.load = load

    def declare(self) -> Declaration:
        surveyed = self.init == "fisher" and self.load is None
        return Declaration(
            tags=("delta",),
            refuses={
                "delta": (
                    "it trains without a gradient through the backbone, in which the other trains; "
                    "leave one out"
                ),
                "features_by_task": (
                    "its side network replaces the end of one trunk, and tasks have several; leave "
                    "one out"
                ),
            },
            surveys=(self.survey(),) if surveyed else (),
            ddp_exact=not surveyed,
            ddp_difference="each has Fisher batches of its own samples" if surveyed else "",
            uncompiled="the gradient is switched off and on within its forward",
        )

    def survey(self) -> Survey:
        return Survey(
            "fisher",
            "labeled",
            sample_losses,
            Clock.at_start(),
            network="student",
            gradients=True,
            batch=FISHER_BATCH,
            within=self.plain_backbone,
        )

    @contextmanager
    def plain_backbone(self, context: Context) -> Iterator[None]:
        """The backbone without the ladder, with gradients of its weights and of nothing else."""
        network = context.network
        ladder = cast(Ladder, network.deltas[self.key])
        before = [(p, p.requires_grad) for p in network.parameters()]
        network.requires_grad_(False)
        network.backbone.requires_grad_(True)
        ladder.aside = True
        try:
            yield
        finally:
            ladder.aside = False
            for parameter, trained in before:
                parameter.requires_grad_(trained)

    def surveyed(self, survey: Survey, table: Mapping[str, Tensor], context: Context) -> None:
        importance = {
            name.removeprefix("backbone."): value
            for name, value in table.items()
            if name.startswith("backbone.")
        }
        networks = [context.network]
        if context.teacher is not None:
            networks.append(context.teacher.network)
        for network in networks:
            option = f"methods.{self.key}.init=fisher"
            network.deltas[self.key].prune(context.network.backbone, importance, option)  # type: ignore[operator]

    def attach(self, network: Network) -> None:
        backbone = network.backbone
        names = find_blocks(backbone)
        if not names:
            raise UserError(
                f"methods.{self.key}: a ladder needs transformer blocks, and "
                f"{type(backbone).__name__} has {existing(find_sites(backbone))}; use peft=lora, "
                "or a transformer as network"
            )
        width = self.width(network, names)
        side = width // self.reduction
        if side < LEAST_WIDTH:
            raise UserError(
                f"methods.{self.key}.reduction={self.reduction}",
                f"the states of {type(backbone).__name__} are only {width} wide, and of fewer than "
                f"{LEAST_WIDTH} features the norm of the side network leaves only signs",
                f"set it to at most {max(width // LEAST_WIDTH, 1)}",
            )
        kept = [i for i in range(len(names)) if not self.drop_every or i % self.drop_every]
        if not kept:
            raise UserError(
                f"methods.{self.key}.drop_every={self.drop_every}",
                f"none of {len(names)} block(s) keeps its rung",
                "set it to 0, or to at least 2",
            )
        ladder = Ladder(names, kept, width, side, self.side_block, self.temperature)
        ladder.to(next(backbone.parameters()).device)
        if self.init != "random":
            # with `fisher` for the time being, so that the plan refuses what has no such weights
            ladder.prune(backbone, magnitudes(backbone), f"methods.{self.key}.init={self.init}")
        network.deltas[self.key] = ladder
        backbone.register_forward_pre_hook(ladder.enter, with_kwargs=True)
        backbone.get_submodule(names[-1]).register_forward_hook(ladder.climb)
        backbone.register_forward_hook(ladder.leave, always_call=True)

    def width(self, network: Network, names: Sequence[str]) -> int:
        """The width d of the states. Raises UserError if they are not all of one shape."""
        sites = find_sites(network.backbone)
        widths = {len(site.weight) for site in sites if site.role == "mlp.out"}
        shapes: set[tuple[int, ...]] = set()
        if not on_meta_device(network):
            reading = tapped(network.backbone, (INPUT, *names), names[0])
            with torch.no_grad(), trial_forward(network), reading as seen:
                network(network.example())
            shapes = {tuple(state.shape) for state in seen.values()}
        if len(widths) > 1 or len(shapes) > 1:
            raise UserError(
                f"methods.{self.key}: the blocks of {type(network.backbone).__name__} differ in "
                "the shape of their states, as those of windows do, and a ladder reads one shape; "
                "use peft=lora, or a ViT as network"
            )
        return widths.pop()
