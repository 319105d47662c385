"""The other side of `peft.py`: networks changed by the peft library, or by the least code that does
the same by hand, with the weights of ours copied into them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.peft.peft_format import write_peft
from recipes.networks.network import Network

Peer = Callable[[Network, Network], list[tuple[Tensor, Tensor]]]
# (ours, theirs) of equal meaning and shape, whose gradients must agree
Pairs = list[tuple[Tensor, Tensor]]


def plain(theirs: Network) -> Any:
    """Their frozen backbone, with torch's attention as the library expects it."""
    backbone: Any = theirs.backbone.requires_grad_(False)
    if theirs.kind == "text":
        backbone.set_attn_implementation("sdpa")
    return backbone


@torch.no_grad()
def copied(pairs: Pairs) -> Pairs:
    for mine, yours in pairs:
        yours.copy_(mine.view_as(yours))
    return pairs


# -- the library -----------------------------------------------------------------------------------
def lora(ours: Network, theirs: Network) -> Pairs:
    """Read from the file that ours leaves; parts of a fused layer are one pair of the joint rank
    there."""
    import peft

    deltas = list(ours.deltas["lora"])
    with TemporaryDirectory() as folder:
        write_peft(Path(folder), deltas)
        model = peft.PeftModel.from_pretrained(plain(theirs), folder, is_trainable=True)
    theirs.backbone = model
    if any(delta.rows for delta in deltas):
        return []  # their B has rows which ours does not have
    return low_rank(deltas, model)


def low_rank(deltas: list[Any], model: Any) -> Pairs:
    """A and B of ours and of the library's."""
    found: Pairs = []
    for delta in deltas:
        layer = model.base_model.model.get_submodule(delta.site)
        found.append((delta.a, layer.lora_A["default"].weight))
        found.append((delta.b, layer.lora_B["default"].weight))
    return found


def dora(ours: Network, theirs: Network) -> Pairs:
    import peft

    deltas = list(ours.deltas["dora"])
    rank = len(deltas[0].a)
    sites = [delta.site for delta in deltas]
    alpha = deltas[0].scale * rank
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=sites, use_dora=True)
    model = peft.get_peft_model(plain(theirs), config)
    theirs.backbone = model
    found = low_rank(deltas, model)
    for delta in deltas:
        layer: Any = model.base_model.model.get_submodule(delta.site)
        found.append((delta.m, layer.lora_magnitude_vector["default"].weight))
    return copied(found)


def prefix(ours: Network, theirs: Network) -> Pairs:
    """The library shifts the positions of the tokens by the length of the prefix: their table is
    shifted to meet it."""
    import peft

    table: Any = ours.deltas["prefix_tuning"].table
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=len(table))
    backbone = plain(theirs)
    places = backbone.embeddings.position_embeddings.weight
    places.copy_(places.roll(len(table), 0))
    model = peft.get_peft_model(backbone, config)
    theirs.backbone = model
    rows = model.prompt_encoder["default"].embedding.weight
    return copied([(table, rows)])


# -- by hand ---------------------------------------------------------------------------------------
Activation = Callable[[Tensor], Tensor]


class Behind(nn.Module):
    """A layer and a bottleneck behind it: F + U σ(D F)."""

    def __init__(self, layer: nn.Module, width: int, size: int, activation: Activation):
        super().__init__()
        self.layer, self.activation = layer, activation
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)

    def forward(self, *inputs: Tensor) -> Tensor:
        output = self.layer(*inputs)
        return output + self.up(self.activation(self.down(output)))


def bottleneck(mine: Any, made: Any) -> Pairs:
    """The four parameters of an adapter."""
    parts = ((mine.down, made.down), (mine.up, made.up))
    return [pair for a, b in parts for pair in ((a.weight, b.weight), (a.bias, b.bias))]


def within(theirs: Network, sites: Iterable[tuple[str, Any]], activation: Activation) -> Pairs:
    """Put a bottleneck behind each of these modules."""
    found: Pairs = []
    for name, mine in sites:
        parent, _, last = name.rpartition(".")
        holder = theirs.backbone.get_submodule(parent)
        sizes = mine.up.out_features, mine.down.out_features
        made = Behind(holder.get_submodule(last), *sizes, activation)
        holder.add_module(last, made)
        found += bottleneck(mine, made)
    return found


def tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def houlsby(ours: Network, theirs: Network) -> Pairs:
    """Behind the dropout of both sub-layers; layer norms learn, too."""
    for module in plain(theirs).modules():
        if isinstance(module, nn.LayerNorm):
            module.requires_grad_(True)
    adapters: Any = ours.deltas["adapter"]
    return copied(within(theirs, [(dropout_of(a.site), a) for a in adapters], tanh_gelu))


def dropout_of(site: str) -> str:
    """The dropout behind an output layer: timm's ViT | BERT."""
    parent, _, last = site.rpartition(".")
    return f"{parent}." + {"proj": "proj_drop", "fc2": "drop2", "dense": "dropout"}[last]


class Twice(nn.Module):
    """BERT's norm with a pfeiffer adapter: LN(u + A(LN u))."""

    def __init__(self, norm: nn.Module, width: int, size: int):
        super().__init__()
        self.norm, self.down, self.up = norm, nn.Linear(width, size), nn.Linear(size, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.up(F.relu(self.down(self.norm(x)))))


def pfeiffer(ours: Network, theirs: Network) -> Pairs:
    """Behind a whole block in a ViT, within the last norm of a block in BERT."""
    plain(theirs)
    adapters: Any = ours.deltas["adapter"]
    if theirs.kind == "image":
        sites = [(a.site.removesuffix(".mlp.fc2"), a) for a in adapters]
        return copied(within(theirs, sites, F.relu))
    found: Pairs = []
    for mine in adapters:
        output: Any = theirs.backbone.get_submodule(mine.site.removesuffix(".dense"))
        sizes = mine.up.out_features, mine.down.out_features
        made = output.LayerNorm = Twice(output.LayerNorm, *sizes)
        found += bottleneck(mine, made)
    return copied(found)


class Widened(nn.Module):
    """timm's attention with learned rows before keys and values, written out."""

    def __init__(self, attention: Any, rows: Tensor):
        super().__init__()
        self.attention, self.rows = attention, nn.Parameter(torch.empty_like(rows))

    def forward(self, x: Tensor, *unused: Any, **more: Any) -> Tensor:
        own = self.attention
        size, length, width = x.shape
        joint = own.qkv(x).view(size, length, 3, own.num_heads, own.head_dim)
        q, k, v = joint.permute(2, 0, 3, 1, 4).unbind(0)
        rows = self.rows.view(-1, 2, own.num_heads, own.head_dim).permute(1, 2, 0, 3).unsqueeze(1)
        pk, pv = rows.expand(2, size, *rows.shape[2:]).unbind(0)
        seen = F.scaled_dot_product_attention(q, torch.cat([pk, k], 2), torch.cat([pv, v], 2))
        return own.proj(seen.transpose(1, 2).reshape(size, length, width))


def widened(ours: Network, theirs: Network) -> Pairs:
    table: Any = ours.deltas["prefix_tuning"].table
    found: Pairs = []
    for layer, block in enumerate(plain(theirs).blocks):
        block.attn = Widened(block.attn, table[:, layer])
        with torch.no_grad():
            block.attn.rows.copy_(table[:, layer])
    return found
