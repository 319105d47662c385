"""Golden tensors of the `adapters` package, which cannot be installed beside the transformers in
use (it asks for ~=4.57.6). Made once, in an environment of its own:

    pip install adapters==1.3.0 transformers==4.57.6
    python tests/oracles/golden/make_adapters.py

writes adapters.safetensors beside this script: a BERT of two layers, a padded batch, and for every
method the weights, the last hidden states, and the gradients of Σ_k c_k h_k over the real tokens'
states h, c even from -1 to 1.
"""

from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
LAYERS, WIDTH, PREFIX, HIDDEN = 2, 32, 3, 8
METHODS: dict[str, Any] = {
    "houlsby": adapters.DoubleSeqBnConfig(reduction_factor=8),
    "pfeiffer": adapters.SeqBnConfig(reduction_factor=8),
    "parallel": adapters.ParBnConfig(reduction_factor=8),
    "lora": adapters.LoRAConfig(r=4, alpha=12),
    "prefix": adapters.PrefixTuningConfig(flat=True, prefix_length=PREFIX, dropout=0.0),
    "prefix_mlp": adapters.PrefixTuningConfig(
        prefix_length=PREFIX, bottleneck_size=HIDDEN, dropout=0.0
    ),
}
METHODS["mam"] = adapters.MAMConfig(METHODS["prefix_mlp"], METHODS["parallel"])
METHODS["unipelt"] = adapters.UniPELTConfig(
    METHODS["prefix_mlp"], METHODS["pfeiffer"], METHODS["lora"]
)


def backbone() -> BertModel:
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(vocab_size=60, max_position_embeddings=16, **SIZE), add_pooling_layer=False
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm.weight" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            else:
                parameter.normal_(std=0.15)
    return model.eval()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(1, 60, (3, 7)), (torch.arange(7) < torch.tensor([[7], [5], [2]])).long()


FUSED = ("one", "two", "three")


def golden_fusion() -> dict[str, Tensor]:
    """Three adapters of the form `pfeiffer` under an attention, and its penalty."""
    model = backbone()
    adapters.init(model)
    for name in FUSED:
        model.add_adapter(name, config=METHODS["pfeiffer"])
    model.add_adapter_fusion(list(FUSED), config="dynamic")
    model.train_adapter_fusion([list(FUSED)])
    model.eval()
    weights = dict(model.named_parameters())
    weights = {n: p for n, p in weights.items() if ".adapters." in n or "_fusion_layer." in n}
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in weights.values():
            parameter.normal_(std=0.3)
    trained = {name: p for name, p in weights.items() if "_fusion_layer." in name}
    ids, mask = batch()
    said = model(input_ids=ids, attention_mask=mask).last_hidden_state
    real = said[mask.bool()]
    value = (torch.linspace(-1, 1, real.numel()).view_as(real) * real).sum()
    rows = {f"fusion/weight/{name}": p for name, p in weights.items()}
    rows |= {"fusion/output": said, "fusion/penalty": model.get_fusion_regularization_loss()}
    gradients = torch.autograd.grad(value, list(trained.values()))
    for name, gradient in zip(trained, gradients, strict=True):
        rows[f"fusion/gradient/{name}"] = gradient
    return rows


def weights_of(model: nn.Module, kind: str) -> dict[str, nn.Parameter]:
    """What the method has added, by role and place."""
    found = {}
    for name, parameter in model.named_parameters():
        if ".prefix_gates." in name:
            found[name] = parameter
        elif ".prefix_tunings." in name:
            found[name.partition(".prefix_tunings.")[2].partition(".")[2]] = parameter
        elif ".loras." in name:
            place, _, role = name.partition(".loras.it.")
            found[f"{place}.{role}"] = parameter
        elif ".adapters.it." in name:
            place, _, role = name.partition(".adapters.it.")
            found[f"{place}.{role}"] = parameter
    assert found, kind
    return found


def golden(kind: str, config: Any) -> dict[str, Tensor]:
    model = backbone()
    adapters.init(model)
    model.add_adapter("it", config=config)
    model.train_adapter("it")
    model.eval()
    weights = weights_of(model, kind)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in weights.values():
            parameter.normal_(std=0.3)
    ids, mask = batch()
    said = model(input_ids=ids, attention_mask=mask).last_hidden_state
    real = said[mask.bool()]
    value = (torch.linspace(-1, 1, real.numel()).view_as(real) * real).sum()
    gradients = torch.autograd.grad(value, list(weights.values()))
    rows = {f"{kind}/output": said}
    for (name, parameter), gradient in zip(weights.items(), gradients, strict=True):
        rows |= {f"{kind}/weight/{name}": parameter, f"{kind}/gradient/{name}": gradient}
    return rows


def main() -> None:
    ids, mask = batch()
    plain = backbone()
    rows = {f"backbone/{name}": value for name, value in plain.state_dict().items()}
    rows |= {
        "ids": ids,
        "mask": mask,
        "plain/output": plain(input_ids=ids, attention_mask=mask).last_hidden_state,
    }
    for kind, config in METHODS.items():
        rows |= golden(kind, config)
    rows |= golden_fusion()
    versions = {
        "adapters": adapters.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    path = Path(__file__).with_name("adapters.safetensors")
    save_file({name: value.detach().contiguous() for name, value in rows.items()}, path, versions)
    print(f"{path.name}: {len(rows)} tensors, {path.stat().st_size} bytes, {versions}")


if __name__ == "__main__":
    main()
