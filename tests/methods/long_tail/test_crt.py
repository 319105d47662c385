import pytest
import torch
from torch import nn

from foundation.errors import UserError
from methods.averaging.ema import EMA
from methods.long_tail.crt import ClassifierRetraining
from tests.support.harness import Setup, build, fit, train, values_differ


def changed(method: ClassifierRetraining, **settings) -> set[str]:
    """What four steps change of a network, the start being that of the loaded one."""
    start = Setup(norm=True).network().state_dict()
    result = train({"crt": method}, steps=4, norm=True, **settings)
    return set(values_differ(start, result.parameters))


def test_the_backbone_stays_bit_for_bit_and_the_head_learns():
    assert changed(ClassifierRetraining()) == {"heads.label.weight", "heads.label.bias"}


def test_drifting_statistics_are_the_only_other_thing_that_moves():
    moved = changed(ClassifierRetraining(bn="drift"))
    assert moved - {"heads.label.weight", "heads.label.bias"} == {
        "body.1.running_mean",
        "body.1.running_var",
        "body.1.num_batches_tracked",
    }


def test_frozen_features_do_not_depend_on_their_company_nor_on_dropout():
    setup = Setup(norm=True, dropout=0.5)
    recipe = build({"crt": ClassifierRetraining()}, setup)
    view = torch.rand(6, 3, 8, 8)
    with torch.no_grad():
        together, alone = (
            recipe.network.features(recipe.network.embed(view)),
            [recipe.network.features(recipe.network.embed(one.unsqueeze(0))) for one in view],
        )
    torch.testing.assert_close(together, torch.cat(alone))
    assert recipe.network.training and recipe.network.heads["label"].training


def test_a_trainer_leaves_the_frozen_part_in_evaluation_mode():
    setup = Setup(norm=True, steps=2)
    recipe = build({"crt": ClassifierRetraining()}, setup)
    fit(recipe, setup)
    assert not any(module.training for module in recipe.network.body.modules())


def test_heads_begin_afresh_from_the_seed_of_the_run():
    loaded = Setup().network()
    nn.init.constant_(loaded.heads["label"].weight, 7.0)
    first, again, other = (
        build({"crt": ClassifierRetraining()}, Setup(seed=seed), Setup().network()).network.heads
        for seed in (0, 0, 1)
    )
    assert torch.equal(first["label"].weight, again["label"].weight)
    assert not torch.equal(first["label"].weight, other["label"].weight)
    assert not first["label"].bias.any()
    kept = build({"crt": ClassifierRetraining(reinitialize=False)}, Setup(), loaded)
    assert (kept.network.heads["label"].weight == 7).all()


def test_an_averaged_network_shares_the_frozen_part():
    result = train({"crt": ClassifierRetraining(), "ema": EMA(decay=0.5)}, steps=3)
    teacher, student = result.recipe.teacher.network, result.recipe.network
    assert torch.equal(teacher.body[0].weight, student.body[0].weight)
    assert not torch.equal(teacher.heads["label"].weight, student.heads["label"].weight)


def test_a_head_it_cannot_draw_anew_is_refused():
    network = Setup().network()
    network.heads["label"] = nn.Sequential(nn.Linear(16, 3))
    with pytest.raises(UserError, match=r"task 'label' is not linear; set reinitialize=false"):
        build({"crt": ClassifierRetraining()}, Setup(), network)
