"""How a view that learns does so: from the model's predictions on its probes of labeled samples
(CTAugment; Berthelot et al., ReMixMatch, ICLR 2020, arXiv 1911.09785)."""

import torch
from torch import Tensor

from datamodules.views.image.ctaugment import PURPOSE
from foundation.distributed import gather_rows
from recipes.contract import Context
from recipes.networks.network import eval_mode
from recipes.step import Step


def proximity(probabilities: Tensor, labels: Tensor) -> Tensor:
    """1 - ½ ‖p - onehot(y)‖₁ = p_y, [N]; 1, which changes no rate that is 1, without a label."""
    own = probabilities.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1)
    return torch.where(labels >= 0, own, 1.0)


@torch.no_grad()
def learn_from_probes(view: str, step: Step, context: Context) -> None:
    """Update the rates of a view, after a batch: probes of its labeled samples are read in
    evaluation mode by the averaged network, if there is one. With several tasks the mean of their
    proximities counts."""
    rates = context.view_states[view]
    network = context.network if context.teacher is None else context.teacher.network
    with eval_mode(network):
        logits = network(network.embed(step.view("labeled", "probe"))).logits
    targets = step.streams["labeled"].targets
    values = [proximity(logits[task].float().softmax(1), targets[task]) for task in step.tasks]
    draw = step.view_draw("labeled", "probe", PURPOSE)
    codes, bins, _ = rates.choice(draw, learned=False)
    mean = torch.stack(values).mean(0)
    rates.learn(gather_rows(codes), gather_rows(bins), gather_rows(mean))
