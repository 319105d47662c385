"""AdapterFusion. Pfeiffer, Kamath, Rücklé, Cho and Gurevych, AdapterFusion: Non-Destructive Task
Composition for Transfer Learning, EACL 2021, arXiv 2005.00247."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count, Scale, Weight
from methods.peft.activations import ACTIVATIONS, Bottleneck, Flow
from methods.peft.adapter import Adapter
from methods.peft.sites import Site
from methods.peft.trained_adapters import copy_adapter
from recipes.contract import Context, Declaration
from recipes.networks.network import Network
from recipes.step import Step

OFF_DIAGONAL = 1e-6  # of V at the start
FRESH = "fresh"  # in place of a run: an adapter that nobody trained


def attention(h: Tensor, changes: Tensor, query: nn.Linear, key: nn.Linear) -> Tensor:
    """p = softmax_n((Q h)·(K δ_n)), [..., N], in float32. h: [..., d], changes: δ, [..., N, d]."""
    scores = (query(h).unsqueeze(-2) * key(changes)).sum(-1)
    return torch.softmax(scores.float(), dim=-1)


def fused(changes: Tensor, shares: Tensor, value: nn.Linear) -> Tensor:
    """Σ_n p_n V δ_n = V Σ_n p_n δ_n. shares: p, [..., N]."""
    mixed = (shares.to(changes.dtype).unsqueeze(-1) * changes).sum(-2)
    return value(mixed)  # type: ignore[no-any-return]


def distance_from_identity(value: Tensor) -> Tensor:
    """‖I - V‖²_F."""
    return (value - torch.eye(len(value), dtype=value.dtype, device=value.device)).square().sum()


class Fusion(nn.Module):
    """The adapters of one block, frozen, the attention over them, and the hooks that add their
    mixture to the block."""

    def __init__(self, adapters: Sequence[Bottleneck], width: int):
        super().__init__()
        self.adapters = nn.ModuleList(adapters)
        self.adapters.requires_grad_(False)
        self.query = nn.Linear(width, width)
        # a bias of keys would add the same to all scores, which softmax ignores
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def start(self) -> None:
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.query.bias)
        with torch.no_grad():
            self.value.weight.fill_(OFF_DIAGONAL).fill_diagonal_(1.0)
        # decay would pull V to zero, and with it all adapters
        self.value.weight._weight_decay = 0.0  # type: ignore[attr-defined]

    def forward(self, h: Tensor) -> Tensor:
        """Σ_n p_n V A_n(h)."""
        changes = torch.stack([adapter(h) for adapter in self.adapters], dim=-2)
        shares = attention(h, changes, self.query, self.key)
        return fused(changes, shares, self.value).to(h.dtype)

    # -- hooks -------------------------------------------------------------------------------------
    def within_norm(self, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """LN(u) → LN(u + Σ p V A(LN u)): the block's last norm is applied twice."""
        return norm.forward(args[0] + self(output))  # type: ignore[no-any-return]

    def behind(self, module: nn.Module, args: Any, output: Any) -> Any:
        """h → h + Σ p V A(h), where a block ends in a sum."""
        if isinstance(output, tuple):
            return (output[0] + self(output[0]), *output[1:])
        return output + self(output)


class AdapterFusion(Adapter):
    """h ← h + Σ_n p_n V A_n(h), p = softmax_n((Q h)·(K A_n(h))): in every block, an attention over
    the adapters of finished runs.

    The place is that of one adapter (`peft=adapter` with `variant=pfeiffer`): with F the
    feed-forward part, h = LN(x + F), and the block's output is LN(x + F + Σ p V A(h)), in post-norm
    blocks (BERT); h = x + F in pre-norm ones (ViT). Adapters and backbone are frozen; Q, K, V and
    the heads are trained, with λ Σ ‖I - V‖²_F over the blocks. V starts as the identity (1e-6 off
    the diagonal), Q and K from N(0, 0.02²); V has no weight decay. 3 d² parameters a block, which
    is a fifth of a BERT-base. The first stage is one run an adapter, each with the same frozen
    backbone: `recipe=adapter_fusion` (ST-A of the paper). Differs from the adapters package: no
    dropout on scores, no bias of keys, which has no effect. Not merged into weights. Learning
    rates: AdamW 5e-5 (paper) to 5e-4.

    adapters: runs whose adapters are fused, two or more: folder or checkpoint, `{NAME}`: that of
        stage NAME; `fresh`: an untrained adapter, to compare with. The delta file beside the
        checkpoint is read.
    bottleneck: width m of the adapters, at least 1; 64.
    scale: s of the adapters, above 0; 1.
    activation: σ of the adapters: `relu` (paper), `gelu`, `silu` or `identity`.
    regularisation: λ of the distance of V from the identity, at least 0; 0.01 (paper).
    load: delta saved by another run of this method, to start from; null: none.
    """

    preserves: bool = False

    def __init__(
        self,
        adapters: list[str] | None = None,
        bottleneck: Count = 64,
        scale: Scale = 1.0,
        activation: Literal["relu", "gelu", "silu", "identity"] = "relu",
        regularisation: Weight = 0.01,
        load: str | None = None,
    ):
        super().__init__("pfeiffer", bottleneck, scale, activation, load=load)
        self.preserves = False
        self.adapters = adapters or []
        self.regularisation = regularisation
        named = [place for place in self.adapters if place != FRESH]
        for place in named:
            if named.count(place) > 1:
                problem = (
                    f"'{place}' is there twice, and attention cannot tell equal adapters apart"
                )
                raise UserError("methods.adapter_fusion.adapters", problem, "name each run once")

    def declare(self) -> Declaration:
        return Declaration(
            tags=("delta",),
            refuses={"adapters": "both attach adapters to the blocks; leave one out"},
        )

    def attach(self, network: Network) -> None:
        option = f"methods.{self.key}.adapters"
        if len(self.adapters) < 2:
            count = len(self.adapters) or "no"
            problem = f"names {count} run{'s' if count != 1 else ''}"
            remedy = f"give two or more whose adapters are fused: {option}=[RUN,RUN]"
            raise UserError(option, problem, remedy)
        super().attach(network)
        for number, place in enumerate(self.adapters):
            if place != FRESH:
                own = [layer.adapters[number] for layer in fusions(network, self.key)]
                copy_adapter(place, network, cast(list[Bottleneck], own), option)

    def make(self, site: Site) -> Bottleneck:
        """An adapter for the weights of a run; a fresh one has torch's for both layers, since one
        that starts at zero would have nothing to attend to."""
        adapter = self.new(len(site.weight), ACTIVATIONS[self.activation], site.name)
        adapter.variant = self.variant
        return adapter.to(site.weight.device)

    def into(
        self, network: Network, name: str, inside: dict[str, Site], flow: Flow
    ) -> list[nn.Module]:
        """Attach the adapters of one block and the attention over them."""
        last = inside["mlp.out"]
        width = len(last.weight)
        layer = Fusion([self.make(last) for _ in self.adapters], width)
        layer.to(last.weight.device).start()
        norm = self.closing_norm(network, name, flow)
        if norm is None:
            network.backbone.get_submodule(name).register_forward_hook(layer.behind)
        else:
            norm.register_forward_hook(layer.within_norm)
        return [layer]

    def terms(self, step: Step, context: Context) -> None:
        if self.regularisation:
            layers = fusions(context.network, self.key)
            distances = [distance_from_identity(layer.value.weight) for layer in layers]
            step.term("identity", torch.stack(distances).sum(), weight=self.regularisation)


def fusions(network: Network, key: str) -> list[Fusion]:
    """The fused layers of a network, first block to last."""
    return [layer for layer in network.deltas[key].children() if isinstance(layer, Fusion)]
