"""What all losses on embeddings share: head, clean view, teacher, exactness of what is asked
for."""

import pytest
import torch

from foundation.errors import UserError
from methods.averaging.ema import EMA
from methods.long_tail.posthoc_logit_adjustment import PosthocLogitAdjustment
from methods.metric_learning.lifted_structure import LiftedStructure
from methods.metric_learning.multi_similarity import MultiSimilarity
from methods.metric_learning.triplet import Triplet
from methods.regularization.mixup import Mixup
from tests.support.harness import Setup, build, train


def test_the_embedding_is_an_output_of_the_one_forward():
    recipe = build({"multi_similarity": MultiSimilarity(dim=5)}, Setup())
    logits = recipe.predict_logits(torch.rand(4, 3, 8, 8))
    assert logits["embedding"].shape == (4, 5)
    torch.testing.assert_close(logits["embedding"].norm(dim=1), torch.ones(4))
    assert list(recipe.tasks) == ["label"]


def test_distances_see_no_shift_so_there_is_none_to_learn():
    heads = [
        build({"m": LiftedStructure(normalize=n)}, Setup()).network.heads["embedding"]
        for n in (False, True)
    ]
    assert [head.project.bias is not None for head in heads] == [False, True]
    assert heads[0](torch.randn(8, 16)).norm(dim=1).std() > 1e-3


def test_the_average_has_it_too():
    recipe = build({"triplet": Triplet(dim=5), "ema": EMA()}, Setup())
    assert "network.heads.embedding.project.weight" in recipe.teacher.state_dict()


def test_a_change_of_logits_at_inference_leaves_the_embedding_alone():
    recipe = build({"triplet": Triplet(dim=5), "posthoc": PosthocLogitAdjustment(tau=2.0)}, Setup())
    view = torch.rand(4, 3, 8, 8)
    changed, raw = recipe.predict_logits(view), recipe.predict_logits(view, raw=True)
    assert torch.equal(changed["embedding"], raw["embedding"]) and not torch.equal(
        changed["label"], raw["label"]
    )


def test_two_losses_share_an_embedding_or_are_refused():
    both = build({"triplet": Triplet(), "multi_similarity": MultiSimilarity()}, Setup())
    assert both.composition.embedding.dim == 128
    with pytest.raises(
        UserError, match=r"triplet.*multi_similarity share one embedding.*dim 64 against 128.*equal"
    ):
        build({"triplet": Triplet(dim=64), "multi_similarity": MultiSimilarity()}, Setup())
    with pytest.raises(UserError, match="normalize False against True"):
        build(
            {"lifted_structure": LiftedStructure(), "multi_similarity": MultiSimilarity()}, Setup()
        )


def test_a_task_may_not_be_called_embedding():
    with pytest.raises(UserError, match="task 'embedding': is the name of the embedding head"):
        build({"triplet": Triplet()}, Setup(tasks={"embedding": 3}))


def test_mixed_inputs_change_the_classification_branch_alone():
    """Pairs need hard labels: beside Mixup the loss is that of the clean batch."""
    plain = train({"triplet": Triplet()}, steps=1)
    torch.manual_seed(0)
    mixed = train({"mixup": Mixup(), "triplet": Triplet()}, steps=1)
    assert mixed.history[0]["train/triplet"] == pytest.approx(
        plain.history[0]["train/triplet"], rel=1e-5
    )
    assert mixed.history[0]["train/supervised"] != pytest.approx(
        plain.history[0]["train/supervised"], rel=1e-3
    )


def test_a_weight_of_zero_trains_as_if_it_were_not_there():
    plain, idle = train(steps=3), train({"triplet": Triplet(weight=0.0)}, steps=3)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(idle.parameters[name], value, atol=1e-6, rtol=0)
