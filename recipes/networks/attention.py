"""torch's attention with an explicit mask, for Hugging Face encoders."""

import inspect
from typing import Any

from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

SDPA = "roux_sdpa"  # the name of this attention in transformers

_MASK_ARGUMENTS = inspect.signature(sdpa_mask).parameters


def _unconditional_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    # transformers drops a mask if no token is padding; that check synchronizes the device
    for skip in ("allow_is_bidirectional_skip", "allow_is_causal_skip"):
        if skip in _MASK_ARGUMENTS:
            kwargs[skip] = False
    return sdpa_mask(*args, **kwargs)


AttentionInterface.register(SDPA, sdpa_attention_forward)
AttentionMaskInterface.register(SDPA, _unconditional_mask)
