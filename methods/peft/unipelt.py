"""UniPELT. Mao et al., UniPELT: A Unified Framework for Parameter-Efficient Language Model Tuning,
ACL 2022, arXiv 2110.07577."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Steps
from methods.peft.activations import Activation, Bottleneck
from methods.peft.adapter import Adapter
from methods.peft.gates import Gate, Tokens, Weighted
from methods.peft.lora import LoRA, LowRank
from methods.peft.prefix_tuning import PrefixTuning, key_width
from methods.peft.prefixes import Masks, Prefix, Widened
from methods.peft.sites import Site
from methods.peft.surgeon import PEFTMethod
from methods.peft.weights import WeightDelta, attach, uncalled
from recipes.contract import Context, Declaration
from recipes.networks.network import Network

PrefixGate = Literal["rows", "mass"]


class GatedLowRank(LowRank):
    """G(x) B A x, in place of s B A x."""

    def __init__(self, site: Site, rank: int, gate: Gate):
        super().__init__(site, rank, 1.0, 0.0, "kaiming")
        self.gate = gate

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        return self.gate(x) * super().forward(x, layer)

    @classmethod
    def added(cls, deltas: Sequence[Self], layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        # one by one: each has a gate of its own
        return super(LowRank, cls).added(deltas, layer, x, output)


class GatedBottleneck(Bottleneck):
    """G(z) A(z), in place of A(z)."""

    gate: Gate

    def added(self, to: Tensor, z: Tensor) -> Tensor:
        return to + self.gate(z) * self(z)


class GatedAdapter(Adapter):
    """Adapters after the feed-forward part, each with a gate."""

    def __init__(self, bottleneck: int, tokens: Tokens):
        super().__init__("pfeiffer", bottleneck)
        self.tokens = tokens

    def new(self, width: int, activation: Activation, name: str) -> Bottleneck:
        adapter = GatedBottleneck(width, self.bottleneck, activation, 1.0, 0.0, name)
        adapter.gate = Gate(width, self.tokens)
        return adapter


class GatedPrefix(Prefix):
    """A prefix with a gate for every layer, G of the attention's input x: rows G(x) P, or, for
    `mass`, G(x) times the attention that they take."""

    def __init__(self, sites: Sequence[Site], of: PrefixGate, tokens: Tokens, *settings: Any):
        super().__init__(*settings)
        self.of = of
        gates = [Gate(site.weight.shape[1], tokens).to(site.weight.device) for site in sites]
        self.gates = nn.ModuleList(gates)

    def mode(self, layer: int, x: Tensor, masks: Masks) -> Widened:
        rows = self.seen(layer, x)
        gate = self.gates[layer](x).unsqueeze(-1)  # [N, 1, 1, 1]
        if self.of == "mass":
            return Weighted(rows, masks, gate)
        return Widened(gate * rows, masks)


class GatedPrefixTuning(PrefixTuning):
    """Prefix tuning with gates."""

    def __init__(self, length: int, hidden: int, of: PrefixGate, tokens: Tokens):
        super().__init__(length, hidden)
        self.of = of
        self.tokens = tokens

    def prefix(self, network: Network, sites: list[Site]) -> Prefix:
        settings = (self.length, len(sites), key_width(sites), self.hidden, sites[0].weight.device)
        return GatedPrefix(sites, self.of, self.tokens, *settings)


class UniPELT(PEFTMethod):
    """W x + G_L B A x on queries and values, Attn(q, [G_P P_k; K], [G_P P_v; V]), h + G_A A(h)
    behind every feed-forward part; G(x) = mean_t sigmoid(w·x_t + b).

    LoRA, a prefix and adapters in every block, each with a gate, one number for each sample, that
    is computed from the input of its sub-layer: the network learns which of them a sample needs.
    LoRA's gate replaces α/r. The parts are those of `lora`, `prefix_tuning` and `adapter` with
    variant=pfeiffer; a part of size 0 is left out. Gates start at about 0.5, weights N(0, 0.02²)
    and biases 0, and the prefix changes the output before training. Gates depend on the sample, so
    nothing can be merged. Gates and prefix have no weight decay. Learning rates: AdamW 5e-4.

    bottleneck: width m of the adapters, at least 0; 48 (authors).
    length: rows P of the prefix, at least 0; 10 (authors).
    hidden: width of the MLP that makes the rows, at least 0; 512 (authors); 0: none.
    rank: rank r of LoRA, at least 0; 8 (authors).
    gate_mean: tokens over which gates average: `masked`, the real ones (ours), or `all` (authors).
        With `all` an output depends on how far the text is padded.
    prefix_gate: what the prefix's gate multiplies: `rows` (authors), or its `mass` of attention.
        At gate 0 rows of zeros still take attention from the tokens; `mass` is then the network
        without prefix, at the price of a second attention.
    load: delta saved by another run, to start from; null: none.
    """

    # after those that insert tokens: gates average over all of them
    declaration = Declaration(tags=("delta", "adapters"), after=("adds_tokens",))
    preserves: bool = False

    def __init__(
        self,
        bottleneck: Steps = 48,
        length: Steps = 10,
        hidden: Steps = 512,
        rank: Steps = 8,
        gate_mean: Literal["masked", "all"] = "masked",
        prefix_gate: PrefixGate = "rows",
        load: str | None = None,
    ):
        self.bottleneck = bottleneck
        self.length = length
        self.hidden = hidden
        self.rank = rank
        self.gate_mean = gate_mean
        self.prefix_gate = prefix_gate
        self.load = load

    def attach(self, network: Network) -> None:
        tokens = Tokens()
        if self.gate_mean == "masked":
            network.backbone.register_forward_pre_hook(tokens.note, with_kwargs=True)
            network.backbone.register_forward_hook(tokens.forget, always_call=True)
        parts: dict[str, nn.Module] = {}
        if self.rank:
            parts["lora"] = self.low_rank(network, tokens)
        if self.length:
            prefix = GatedPrefixTuning(self.length, self.hidden, self.prefix_gate, tokens)
            prefix.key = self.key
            parts["prefix"] = prefix.added(network)
        if self.bottleneck:
            adapter = GatedAdapter(self.bottleneck, tokens)
            adapter.key = self.key
            parts["adapters"] = adapter.added(network)
        network.deltas[self.key] = nn.ModuleDict(parts)

    def low_rank(self, network: Network, tokens: Tokens) -> nn.ModuleList:
        """LoRA of queries and values."""
        lora = LoRA(targets=["attn.q", "attn.v"])
        lora.key = self.key
        sites = list(lora.sites(network))
        silent = uncalled(network, [site.module for site in sites])
        for site in sites:
            if site.module in silent:
                raise UserError(
                    f"methods.{self.key}.rank",
                    f"{type(network.backbone).__name__} reads the weight of '{site.name}' without "
                    "calling the layer, so no gate sees its input",
                    f"set methods.{self.key}.rank=0, or use peft=lora",
                )
        deltas: list[WeightDelta] = []
        for site in sites:
            gate = Gate(site.weight.shape[1], tokens).to(site.weight.device)
            deltas.append(GatedLowRank(site, self.rank, gate))
        attach(network, deltas)
        return nn.ModuleList(deltas)

    def parameter_groups(self, context: Context) -> list[dict[str, Any]]:
        undecayed: list[nn.Parameter] = []
        for module in context.network.deltas[self.key].modules():
            if isinstance(module, Gate):
                undecayed += module.parameters()
            elif isinstance(module, Prefix):
                rest = [part for name, part in module.named_parameters() if "gates" not in name]
                undecayed += rest
        return [{"params": undecayed, "weight_decay": 0.0}]
