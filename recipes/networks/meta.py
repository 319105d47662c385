"""The meta device: shapes without numbers, for the plan."""

import torch


def on_meta() -> bool:
    """Whether modules are being built for the plan, under `with torch.device("meta")`: weights are
    not read then."""
    return torch.get_default_device().type == "meta"
