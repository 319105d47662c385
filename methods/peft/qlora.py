"""QLoRA. Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023, arXiv
2305.14314."""

import logging
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count, Scale, ShareBelowOne
from methods.peft.lora import Init, LoRA
from methods.peft.nf4 import Packed, has_kernel, pack, unpack
from methods.peft.sites import existing, find_sites
from methods.peft.weights import attach, uncalled
from recipes.contract import Declaration
from recipes.networks.network import Network

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
logger = logging.getLogger(__name__)


class PackedProduct(torch.autograd.Function):
    """x Wᵀ with W unpacked in the forward and again in the backward, so that only its 4 bits are
    kept between them. No gradient of W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, int], *packed: Tensor) -> Tensor:
        ctx.save_for_backward(*packed)
        ctx.shape = shape
        return F.linear(x, unpack(Packed(*packed), shape).to(computed_in(x)))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight = unpack(Packed(*ctx.saved_tensors), ctx.shape).to(gradient.dtype)
        return gradient @ weight, None, None, None, None, None


def computed_in(x: Tensor) -> torch.dtype:
    """The precision in which a product with x is computed."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class FourBitLinear(nn.Linear):
    """y = unpack(W) x + b: a frozen linear layer whose weight is stored in 4 bits. Its tensors are
    frozen parameters, which an averaged copy of the network shares. `weight` unpacks it anew."""

    def __init__(self, layer: nn.Linear, double: bool):
        # not nn.Linear's, which would make a weight
        nn.Module.__init__(self)
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.bias = layer.bias
        share_hooks(layer, self)
        for name, value in pack(layer.weight, double)._asdict().items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    @property
    def packed(self) -> Packed:
        return Packed(*(self.get_parameter(name) for name in Packed._fields))

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return unpack(self.packed, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        product = PackedProduct.apply(x, self.shape, *self.packed)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def whole(self) -> nn.Linear:
        """The layer in full precision, with the hooks of this one."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(self.weight.detach(), requires_grad=False)
        layer.bias = self.bias
        share_hooks(self, layer)
        return layer.train(self.training)


def share_hooks(layer: nn.Module, other: nn.Module) -> None:
    """Let one layer stand in for another with the hooks that methods before have put there; a hook
    that is removed from one is gone from both."""
    for name in HOOKS:
        setattr(other, name, getattr(layer, name))


class QLoRA(LoRA):
    """y = Ŵ x + b + s · B A dropout(x): LoRA on a frozen network whose linear layers are stored in
    4 bits, Ŵ = c · NF4[codes] in blocks of 64 weights.

    Each block is divided by its largest magnitude c and rounded to the nearest of 16 levels, the
    quantiles of a normal distribution; with `double_quant` the constants c are stored in 8 bits:
    4.1 bits a weight in all, in memory and in checkpoints. Products are computed in the run's
    precision, with weights unpacked layer by layer, in the backward again; nothing but the 4 bits
    is kept. Quantising changes the network's output before training. Embeddings, norms, heads,
    convolutions and layers whose weight is read without a call stay as they are. With bitsandbytes
    its kernel unpacks, else our own arithmetic, which gives the same numbers more slowly. The
    export merges ΔW into the unpacked weights, in full precision. Use it where the network does not
    fit into memory; a ViT-B or BERT-base saves little and is slower. Learning rates: AdamW 1e-4 to
    2e-4.

    rank: rank r, at least 1; 64 (paper).
    alpha: α of s = α/r, above 0; 16 (paper).
    dropout: dropout of the input of A, in [0, 1); 0.1 (paper, up to 13 billion parameters).
    scaling: s: `lora` α/r (paper) or `rslora` α/√r.
    init: start of A: `kaiming` or `gaussian`, as for `lora`.
    double_quant: store the constants of the blocks in 8 bits; true (paper).
    targets: layers by role or pattern, as for `lora`; null: all linear layers of the blocks
        (paper). All of them that are linear layers are stored in 4 bits.
    qkv: a fused query-key-value layer has A and B for each part, `split`, or one pair, `shared`
        (peft).
    load: delta of another run, or a folder in the peft library's format, to start from; null: none.
    """

    declaration = Declaration(
        tags=("delta", "low_rank"),
        refuses={"low_rank": "the weights are packed, and qlora brings a LoRA of its own"},
        precisions=("32-true", "16-mixed", "bf16-mixed"),
    )
    preserves = False

    def __init__(
        self,
        rank: Count = 64,
        alpha: Scale = 16.0,
        dropout: ShareBelowOne = 0.1,
        scaling: Literal["lora", "rslora"] = "lora",
        init: Init = "kaiming",
        double_quant: bool = True,
        targets: list[str] | None = None,
        qkv: Literal["split", "shared"] = "split",
        load: str | None = None,
    ):
        super().__init__(rank, alpha, dropout, scaling, init, targets, qkv, load)
        self.double_quant = double_quant

    def usual_targets(self, backbone: nn.Module) -> list[str]:
        sites = find_sites(backbone)
        if not any(site.role.startswith(("attn", "mlp")) for site in sites):
            problem = f"{type(backbone).__name__} has no linear layer to store in 4 bits"
            remedy = f"use peft=lora, or a transformer as network (it has {existing(sites)})"
            raise UserError(f"methods.{self.key}", problem, remedy)
        return ["all_linear"]

    def attach(self, network: Network) -> None:
        backbone = network.backbone
        sites = list(self.sites(network))
        deltas = [
            self.delta(site, self.rank, self.scale, self.dropout, self.init) for site in sites
        ]
        layers = {site.name: site.module for site in sites}
        silent = uncalled(network, layers.values())
        packed = 0
        for name, layer in layers.items():
            # a subclass of nn.Linear computes something else with its weight
            if type(layer) is nn.Linear and layer not in silent:
                backbone.set_submodule(name, FourBitLinear(layer, self.double_quant))
                packed += 1
        if not packed:
            problem = f"none of its targets in {type(backbone).__name__} can be stored in 4 bits"
            raise UserError(f"methods.{self.key}", problem, "use peft=lora")
        if packed < len(layers) and not next(network.parameters()).is_meta:
            whole = len(layers) - packed
            logger.warning(
                "%s: %d of %d layers stay in full precision", self.key, whole, len(layers)
            )
        network.deltas[self.key] = nn.ModuleList(deltas)
        attach(network, deltas)

    def remarks(self) -> list[str]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if has_kernel(device):
            return []
        return [
            f"bitsandbytes is not installed or has no kernel for {device}: 4-bit weights are "
            "unpacked by Roux's own arithmetic, with the same numbers and more slowly"
        ]
