"""Adapters. Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019, arXiv
1902.00751; one a block after Pfeiffer et al., AdapterFusion, EACL 2021, arXiv 2005.00247; parallel
and scaled after He et al., Towards a Unified View of Parameter-Efficient Transfer Learning, ICLR
2022, arXiv 2110.04366."""

from collections.abc import Sequence
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from foundation.errors import UserError
from foundation.types import Count, Scale, ShareBelowOne
from methods.peft.activations import ACTIVATIONS, Activation, Bottleneck, Flow
from methods.peft.sites import Site, existing, find_blocks, find_sites, is_linear
from methods.peft.surgeon import PEFTMethod
from recipes.contract import Declaration
from recipes.networks.network import Network

Variant = Literal["houlsby", "pfeiffer", "parallel"]


class Adapter(PEFTMethod):
    """A(z) = s · (U σ(D z + b_D) + b_U), D: [m, d], U: [d, m], added to every block of a frozen
    transformer.

    With F a sub-layer and x its residual stream, post-norm (BERT) | pre-norm (ViT): `houlsby`,
    after attention and after the feed-forward part: LN(x + F + A(F)) | x + F + A(F). `pfeiffer`,
    after the feed-forward part: h = LN(x + F), LN(x + F + A(h)), by the same norm | h = x + F, h +
    A(h). `parallel`, beside the feed-forward part: LN(x + F(x) + A(x)) | x + F(LN x) + A(LN x). The
    adapter's input is taken after the output layer's dropout, its output is added before layer
    scale and drop path. U and all biases start at zero, so the output is unchanged before training
    (with the paper's initialisation only approximately). Learning rates: AdamW 1e-4 to 1e-3.

    variant: place in a block: `houlsby`, `pfeiffer` or `parallel`.
    bottleneck: width m, at least 1; 64 (authors' code).
    scale: s, above 0; null: 4 for `parallel` (He et al.), 1 for the others.
    activation: σ: `gelu`, `relu`, `silu`, `identity` or `auto`, the paper's. `auto` is GELU (tanh
        form) for `houlsby`, ReLU for the others.
    init: start of D and U: `zero` (U and biases) or `houlsby`, near zero (paper). `houlsby`: both
        from N(0, 0.01²) cut at 2σ.
    dropout: probability of dropout behind σ, in [0, 1); 0.
    train_norms: train scale and shift of all layer norms as well; null: for `houlsby` alone
        (paper).
    load: delta saved by another run, to start from; null: none.
    """

    def __init__(
        self,
        variant: Variant = "houlsby",
        bottleneck: Count = 64,
        scale: Scale | None = None,
        activation: Literal["auto", "gelu", "relu", "silu", "identity"] = "auto",
        init: Literal["zero", "houlsby"] = "zero",
        dropout: ShareBelowOne = 0.0,
        train_norms: bool | None = None,
        load: str | None = None,
    ):
        self.variant = variant
        self.bottleneck = bottleneck
        self.init = init
        self.dropout = dropout
        self.load = load
        self.scale = scale or (4.0 if variant == "parallel" else 1.0)
        if activation == "auto":
            activation = "gelu" if variant == "houlsby" else "relu"
        self.activation = activation
        if train_norms is None:
            train_norms = variant == "houlsby"
        self.train_norms = train_norms
        self.preserves = init == "zero"

    def declare(self) -> Declaration:
        return Declaration(tags=("delta", "adapters"))

    def attach(self, network: Network) -> None:
        network.deltas[self.key] = self.added(network)

    def added(self, network: Network) -> nn.ModuleList:
        """Attach adapters to all blocks, and return them."""
        backbone = network.backbone
        sites = [site for site in find_sites(backbone) if is_linear(site.module)]
        blocks = find_blocks(backbone)
        if not blocks:
            raise UserError(
                f"methods.{self.key}: adapters need transformer blocks, and "
                f"{type(backbone).__name__} has {existing(find_sites(backbone))}; use peft=lora, "
                "or a transformer as network"
            )
        flow = Flow(network)
        deltas = nn.ModuleList()
        for block in blocks:
            own = [site for site in sites if site.name.startswith(f"{block}.")]
            # reversed: of several layers with a role the first is kept
            inside = {site.role: site for site in reversed(own)}
            if "mlp.in" not in inside and self.variant == "parallel":
                raise UserError(
                    f"methods.{self.key}",
                    f"'{block}' of {type(backbone).__name__} has {existing(own)}, no mlp.in beside "
                    "which a parallel adapter can stand",
                    "use peft=adapter with variant=houlsby or pfeiffer",
                )
            deltas.extend(self.into(network, block, inside, flow))
        if self.train_norms:
            for site in find_sites(backbone):
                if site.role == "norm" and not isinstance(site.module, _BatchNorm):
                    site.module.requires_grad_(True)
        return deltas

    def into(
        self, network: Network, name: str, inside: dict[str, Site], flow: Flow
    ) -> Sequence[nn.Module]:
        """Attach the adapters of one block, and return them. inside: the block's first layer of
        each role."""
        last = inside["mlp.out"]
        if self.variant == "houlsby":
            ends = [inside["attn.out"], last]
            adapters = [self.make(site) for site in ends]
            for adapter, site in zip(adapters, ends, strict=True):
                flow.dropout_after(site.module).register_forward_hook(adapter.behind)
            return adapters
        adapter = self.make(last)
        block = network.backbone.get_submodule(name)
        if self.variant == "parallel":
            inside["mlp.in"].module.register_forward_pre_hook(adapter.look)
            flow.dropout_after(last.module).register_forward_hook(adapter.beside)
            return [adapter]
        norm = self.closing_norm(network, name, flow)
        if norm is None:
            block.register_forward_hook(adapter.behind)
        else:
            norm.register_forward_hook(adapter.within_norm)
        return [adapter]

    def closing_norm(self, network: Network, name: str, flow: Flow) -> nn.Module | None:
        """The norm in which a block ends (post-norm); None where it ends in a sum."""
        found = find_sites(network.backbone)
        own = [site for site in found if site.name.startswith(f"{name}.")]
        norms = [site.module for site in own if site.role == "norm"]
        return flow.last_norm(network.backbone.get_submodule(name), norms)

    def make(self, site: Site) -> Bottleneck:
        """The adapter of one layer, initialised."""
        activation = ACTIVATIONS[self.activation]
        adapter = self.new(len(site.weight), activation, site.name)
        adapter.variant = self.variant
        adapter.to(site.weight.device).start(paper=self.init == "houlsby")
        return adapter

    def new(self, width: int, activation: Activation, name: str) -> Bottleneck:
        return Bottleneck(width, self.bottleneck, activation, self.scale, self.dropout, name)
