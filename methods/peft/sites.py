"""The layers of any timm network or Hugging Face encoder by role instead of name: where something
may be attached.

    attn.q attn.k attn.v attn.out    projections of self-attention
    attn.qkv                         queries, keys and values in one fused layer
    mlp.in mlp.out                   linear layers of the feed-forward part; gates are `mlp.in`
    conv.stem conv.1x1 conv.kxk      convolutions: the first, 1x1, larger
    conv.dw conv.grouped             convolutions: depthwise, grouped
    linear norm embed                other linear layers, normalisations, tables of embeddings
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import timm.layers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from foundation.errors import UserError

ATTENTION = (
    r"(?:attention\.self|attention\.attn|attention|self_attention|multi_head_attention|self_attn"
    r"|SelfAttention|attentions\.\d+|attn|self)"
)
MLP = r"(?:mlp|mlp_tokens|mlp_channels|ffn|ffns\.\d+|ff|DenseReluDense)"
ROLES = {
    "attn.qkv": rf"{ATTENTION}\.(?:qkv|Wqkv|in_proj|query_key_value|c_attn|qkv_proj)",
    "attn.q": rf"{ATTENTION}\.(?:query_proj|query|q_lin|q_proj|q_head|Wq|q)",
    "attn.k": rf"{ATTENTION}\.(?:key_proj|key|k_lin|k_proj|k_head|Wk|k)",
    "attn.v": rf"{ATTENTION}\.(?:value_proj|value|v_lin|v_proj|v_head|Wv|v)",
    "attn.out": r"attention\.output\.dense"
    rf"|{ATTENTION}\.(?:dense|out_lin|out_proj|o_proj|c_proj|post_proj|proj|Wo|o)",
    "mlp.in": rf"{MLP}\."
    r"(?:fc1(?:_[gx])?|fc_in|c_fc|lin1|linear_1|layer_1|dense_h_to_4h|Wi|wi(?:_\d)?|w1|w2"
    r"|gate_proj|up_proj|gate_up_proj)"
    r"|intermediate\.dense|layers\.\d+\.fc1|albert_layers\.\d+\.ffn|(?:^|\.)h\.\d+\.ffn\.0",
    "mlp.out": rf"{MLP}\."
    r"(?:fc2|fc_out|c_proj|lin2|linear_2|layer_2|dense_4h_to_h|Wo|wo|w3|down_proj)"
    r"|(?<!attention\.)output\.dense|layers\.\d+\.fc2|albert_layers\.\d+\.ffn_output"
    r"|(?:^|\.)h\.\d+\.ffn\.2",
}
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase, timm.layers.RmsNorm)
# no role: small networks that compute attention's position bias, and poolers
_FOREIGN = re.compile(r"cpb_mlp|pos_mlp|rel_pos|(?:^|\.)pooler(?:\.|$)")
# attentions whose fused layer has the rows [q; k; v]; others interleave them by head
_BY_KIND = {
    "timm.layers.attention.Attention",
    "timm.layers.attention.AttentionRope",
    "timm.models.beit.Attention",
    "timm.models.eva.EvaAttention",
    "timm.models.swin_transformer.WindowAttention",
    "timm.models.swin_transformer_v2.WindowAttention",
    "transformers.models.gpt2.modeling_gpt2.GPT2Attention",
    "transformers.models.modernbert.modeling_modernbert.ModernBertAttention",
    "transformers.models.openai.modeling_openai.Attention",
}
_CONV1D = "transformers.pytorch_utils.Conv1D"
_FUSED = ("attn.q", "attn.k", "attn.v")


def is_linear(module: nn.Module) -> bool:
    """Whether the module computes W x + b; `Conv1D` of transformers stores W transposed."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    # by name: importing transformers takes longer than most image runs need for their plan
    return f"{type(module).__module__}.{type(module).__name__}" == _CONV1D


def oriented(module: nn.Module, weight: Tensor) -> Tensor:
    """A weight of the layer as [outputs, …], and back: `Conv1D` has [inputs, outputs]."""
    return weight.t() if is_transposed(module) else weight


@dataclass(frozen=True)
class Site:
    """One layer of the backbone.

    name: dotted name in the backbone.
    rows: [start, stop) of the outputs of a fused layer that have the role, None for all of them.
    """

    name: str
    role: str
    module: nn.Module
    rows: tuple[int, int] | None = None

    @property
    def weight(self) -> Tensor:
        """The weight of the whole layer, [outputs, …]."""
        weight = self.module.weight
        assert isinstance(weight, Tensor), f"'{self.name}' has no weight"
        return oriented(self.module, weight)


def find_sites(backbone: nn.Module) -> list[Site]:
    """Every layer with a role, in the order of definition."""
    found = []
    stem = True
    for name, module in backbone.named_modules():
        if not name or _FOREIGN.search(name):
            continue
        role = _role(name, module, stem)
        stem = stem and not isinstance(module, nn.Conv2d)
        if role:
            found.append(Site(name, role, module))
    return found


def _role(name: str, module: nn.Module, stem: bool) -> str | None:
    if is_linear(module) or isinstance(module, nn.Conv2d):
        for role, pattern in ROLES.items():
            if re.search(rf"(?:^|\.)(?:{pattern})$", name):
                return role
    if is_linear(module):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "conv.stem" if stem else _conv_role(module)
    if isinstance(module, _NORMS):
        return "norm"
    return "embed" if isinstance(module, nn.Embedding) else None


def _conv_role(conv: nn.Conv2d) -> str:
    if conv.groups > 1:
        return "conv.dw" if conv.groups == conv.in_channels else "conv.grouped"
    return "conv.1x1" if conv.kernel_size == (1, 1) else "conv.kxk"


def default_targets(backbone: nn.Module) -> list[str]:
    """Queries and values if there is attention (as in LoRA's paper), else all dense convolutions
    and the feed-forward layers."""
    roles = {site.role for site in find_sites(backbone)}
    if roles & {"attn.q", "attn.qkv"}:
        return ["attn.q", "attn.v"]
    return [role for role in ("conv.1x1", "conv.kxk", "mlp.in", "mlp.out") if role in roles]


def choose_sites(backbone: nn.Module, targets: Sequence[str], option: str) -> list[Site]:
    """The sites that `targets` name, each once, in the order of definition.

    A target is a role (`attn.q`), a family of roles (`attn`, `mlp`, `conv`), `all_linear` for the
    linear layers of the blocks, or a regular expression that matches the whole name of a layer. A
    role of attention selects, on a fused layer, a part of its rows.

    option: the user's setting, for the message.

    Raises UserError if a target matches nothing, and if there is no target.
    """
    sites = find_sites(backbone)
    if not targets:
        problem = f"{type(backbone).__name__} has no attention, convolution or feed-forward layer"
        names = {site.name.rpartition(".")[2] for site in sites if site.role == "linear"}
        remedy = f"name layers by a pattern (linear layers: {', '.join(sorted(names)) or 'none'})"
        raise UserError(option, problem, remedy)
    chosen: dict[tuple[str, tuple[int, int] | None], Site] = {}
    for target in targets:
        matched = list(_matching(backbone, sites, target, option))
        if not matched:
            raise UserError(
                option,
                f"no layer of {type(backbone).__name__} is '{target}'",
                f"it has {existing(sites)}",
            )
        chosen |= {(site.name, site.rows): site for site in matched}
    order = {site.name: i for i, site in enumerate(sites)}
    return sorted(chosen.values(), key=lambda site: (order[site.name], site.rows or (0, 0)))


def _matching(backbone: nn.Module, sites: list[Site], target: str, option: str) -> Iterable[Site]:
    roles = {site.role for site in sites}
    for site in sites:
        if target in _FUSED and site.role == "attn.qkv":
            yield part_of(backbone, site, target, option)
        elif _means(target, site):
            yield site
    if target not in roles | set(ROLES) | {"all_linear", "attn", "mlp", "conv"}:
        for site in sites:
            layer = is_linear(site.module) or isinstance(site.module, nn.Conv2d)
            if layer and _fullmatch(target, site.name, option):
                yield site


def _means(target: str, site: Site) -> bool:
    if target == "all_linear":
        return is_linear(site.module) and site.role.startswith(("attn", "mlp"))
    if target == "attn.qkv" and site.role in _FUSED:
        return True
    return site.role == target or site.role.startswith(f"{target}.")


def _fullmatch(pattern: str, name: str, option: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise UserError(
            f"{option}: '{pattern}' is neither a role nor a regular expression ({error})"
        ) from error


def part_of(backbone: nn.Module, site: Site, role: str, option: str) -> Site:
    """The rows of a fused layer that compute queries, keys or values. Raises UserError if the order
    of its rows is unknown."""
    parent = backbone.get_submodule(site.name.rpartition(".")[0])
    kind = f"{type(parent).__module__}.{type(parent).__qualname__}"
    if kind not in _BY_KIND:
        raise UserError(
            f"{option}: unknown which rows of '{site.name}' make the '{role}' of {kind}; "
            "use attn.qkv as target and set qkv=shared"
        )
    third = len(site.weight) // 3
    i = _FUSED.index(role)
    return replace(site, role=role, rows=(i * third, (i + 1) * third))


def thirds(backbone: nn.Module, site: Site, option: str) -> list[Site]:
    """The three parts of a fused layer."""
    return [part_of(backbone, site, role, option) for role in _FUSED]


def existing(sites: Sequence[Site]) -> str:
    """The roles with their numbers of layers, for a message."""
    counts: dict[str, int] = {}
    for site in sites:
        counts[site.role] = counts.get(site.role, 0) + 1
    listed = ", ".join(f"{role} ({count})" for role, count in counts.items())
    return listed or "no layer with a role"


def find_blocks(backbone: nn.Module) -> list[str]:
    """Names of the transformer blocks, first to last: the smallest modules that contain the output
    layers of an attention and of a feed-forward part. A block that runs several times (ALBERT) is
    listed once."""
    sites = find_sites(backbone)
    ends = [site.name.split(".") for site in sites if site.role == "mlp.out"]
    found: dict[str, None] = {}
    for site in sites:
        if site.role == "attn.out" and ends:
            parts = site.name.split(".")
            block = max((_common(parts, end) for end in ends), key=len)
            if not block:  # the lists of sub-layers stand side by side (XLM)
                continue
            # a list of sub-layers is not called itself (T5), its parent is
            listed = isinstance(backbone.get_submodule(".".join(block)), nn.ModuleList)
            found.setdefault(".".join(block[:-1] if listed else block))
    return list(found)


def _common(a: list[str], b: list[str]) -> list[str]:
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    return a[:same]
