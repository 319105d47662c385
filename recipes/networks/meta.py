"""The meta device: shapes without values, for the plan."""

import torch


def on_meta() -> bool:
    """Whether modules are built on the meta device, for the plan; then no weights are read."""
    return torch.get_default_device().type == "meta"
