"""What an optimizer runs on its tensors: one kernel for all, operations on lists of them, or one
after the other.

Measured on a CPU of 2.x GHz with one thread, ms a step of SGD with momentum: 0.32 tensor by tensor,
0.23 on lists, 0.08 fused for the 14 tensors of `digits_cnn`; 4.2, 4.7, 1.4 for the 78 of WRN-28-2.
Adam and AdamW gain a tenth to a third on lists, three quarters fused.
"""

from typing import Literal

Update = Literal["auto", "fused", "foreach", "loop"]
FORMS = {"fused", "foreach"}
# on lists of tensors to the bit what they are tensor by tensor, on a CPU; NAdam and RAdam are not
EXACT_ON_LISTS = {"momentum", "sgd", "adam", "adamw", "rmsprop"}


def form_of(
    update: Update, name: str, known: set[str], device: str, precision: str
) -> dict[str, bool]:
    """The argument that chooses what an optimizer runs, empty where it is left to it: `known` are
    its arguments. A form that it lacks gives way to the next slower one."""
    if update == "auto" and device == "cpu":
        # fused is three to four times as fast there and differs in the last bit
        return {"foreach": True} if name in EXACT_ON_LISTS and "foreach" in known else {}
    if update == "auto":
        # a fused step unscales gradients of fp16 by itself, after anybody could have clipped or
        # perturbed by them
        update = "fused" if device == "cuda" and precision != "16-mixed" else "foreach"
    if update == "fused" and "fused" in known:
        return {"fused": True}
    return {"foreach": update != "loop"} if "foreach" in known else {}
