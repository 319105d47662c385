import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.adversarial.attacks.attack import Victim
from methods.adversarial.attacks.bim import BIM
from methods.adversarial.attacks.dim import DIM
from methods.adversarial.attacks.mi_fgsm import MIFGSM
from methods.adversarial.attacks.square_attack import Square
from methods.adversarial.attacks.threat import Threat
from methods.adversarial.attacks.tim import TIM
from methods.adversarial.awp import AWP
from methods.adversarial.pgd_at import PGDAT
from methods.adversarial.trades import TRADES
from methods.long_tail.logit_adjustment import LogitAdjustment
from methods.regularization.label_smoothing import LabelSmoothing
from methods.regularization.mixup import Mixup
from methods.regularization.sam import SAM
from methods.semi_supervised.fixmatch import FixMatch
from recipes.contract.environment import Environment
from recipes.networks.network import eval_mode
from recipes.step import Embedded
from tests.support.attack_loops import assert_same, clipped, descend, logits, weak_batches
from tests.support.harness import Setup, build, train, values_differ


def test_true_steps_equal_a_plain_loop():
    """linf from the sample itself: δ ← clip(δ + a sign g), pixels in [0, 1], network in evaluation
    mode."""
    setup = Setup(steps=3, dropout=0.0)
    result = train({"pgd_at": PGDAT(eps=0.1, steps=3, step_size=0.04, random_start=False)}, steps=3)
    network, losses = setup.network(), []
    for _, x, targets, _ in weak_batches(setup):
        y, there = targets["label"], x.clone()
        for _ in range(3):
            there.requires_grad_(True)
            (g,) = torch.autograd.grad(
                F.cross_entropy(logits(network, Embedded(there)), y, reduction="sum"), there
            )
            there = (x + (there.detach() + 0.04 * g.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
        loss = F.cross_entropy(logits(network, Embedded(there)), y)
        descend(network, list(torch.autograd.grad(loss, list(network.parameters()))), setup.lr)
        losses.append(loss.item())
    assert result.losses == pytest.approx(losses, abs=1e-5)
    assert_same(result, network)


def test_texts_are_attacked_in_their_embeddings_and_the_table_still_learns():
    setup = Setup(kind="text", steps=2)
    result = train({"pgd_at": PGDAT("l2", 1.0, 2, 0.3, random_start=False)}, steps=2, kind="text")
    network = setup.network()
    for _, view, targets, _ in weak_batches(setup):
        y, embedded = targets["label"], network.embed(view)
        e, mask = embedded.x.detach(), embedded.mask.unsqueeze(-1).float()
        delta = torch.zeros_like(e)
        for _ in range(2):
            delta.requires_grad_(True)
            z = logits(network, Embedded(e + delta, embedded.mask))
            (g,) = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), delta)
            delta = delta.detach() + 0.3 * mask * g / (mask * g).flatten(1).norm(dim=1).view(
                -1, 1, 1
            )
            delta = delta / delta.flatten(1).norm(dim=1).clamp_min(1.0).view(-1, 1, 1)
        loss = F.cross_entropy(logits(network, Embedded(embedded.x + delta, embedded.mask)), y)
        descend(network, list(torch.autograd.grad(loss, list(network.parameters()))), setup.lr)
    assert_same(result, network)


@pytest.mark.parametrize(
    "settings", [{"norm": True}, {"dropout": 0.5}, {"kind": "text", "dropout": 0.3}]
)
def test_radius_zero_is_plain_training_bit_for_bit(settings):
    """The attack neither draws dropout masks nor counts statistics, and every module gets its mode
    back."""
    settings = settings | {"view": clipped}
    plain, attacked = train(**settings), train({"pgd_at": PGDAT(eps=0.0, steps=2)}, **settings)
    assert attacked.history == plain.history
    assert values_differ(plain.parameters, attacked.parameters) == []


def test_a_module_frozen_on_purpose_gets_its_own_mode_back():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()))
    network.train()
    network[0].eval()
    before = [module.training for module in network.modules()]
    with eval_mode(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == before


class Watching(PGDAT):
    """Keeps what it made of the labeled input."""

    def prepare(self, step, recipe):
        before = step.inputs["labeled"]
        super().prepare(step, recipe)
        self.seen = [
            *getattr(self, "seen", []),
            (before, step.inputs["labeled"].embedded.x - before.embedded.x, step.replay),
        ]


def test_a_replayed_step_meets_the_same_attack():
    for other in ({"sam": SAM(rho=0.5)}, {"awp": AWP(gamma=0.5)}):
        watching = Watching(eps=0.1, steps=2)
        result = train({"pgd_at": watching} | other, steps=2, view=clipped)
        assert [replay for *_, replay in watching.seen] == [False, True, False, True]
        assert torch.equal(watching.seen[0][1], watching.seen[1][1])
        assert not torch.equal(watching.seen[0][1], watching.seen[2][1])
        assert 0.09 < float(watching.seen[0][1].abs().max()) <= 0.1 + 1e-6
        # two steps of the attack, and both passes
        assert result.recipe.network.calls == 2 * (2 + 2)


def test_the_attack_comes_last_and_sees_the_mixed_target():
    watching = Watching(eps=0.1, steps=1)
    train({"pgd_at": watching, "label_smoothing": LabelSmoothing(0.3), "mixup": Mixup()}, steps=1)
    target = watching.seen[0][0].targets["label"]
    assert target.shape == (6, 3)
    assert float(target.amin()) == pytest.approx(0.1)


def test_unlabeled_samples_and_the_attacks_loss_are_left_alone():
    fixmatch = {"fixmatch": FixMatch(threshold=0.2)}
    plain, both = (
        train(fixmatch, steps=1),
        train({**fixmatch, "pgd_at": PGDAT(eps=0.2, steps=2)}, steps=1),
    )
    for name in ("train/fixmatch", "train/label/mask_rate", "train/mask_rate"):
        assert plain.history[0].get(name) == both.history[0].get(name)
    assert both.history[0]["train/supervised"] > plain.history[0]["train/supervised"]
    one, two = Watching(eps=0.1, steps=3), Watching(eps=0.1, steps=3)
    train({"pgd_at": one}, steps=1)
    train({"pgd_at": two, "logit_adjustment": LogitAdjustment(tau=3.0)}, steps=1)
    assert torch.equal(one.seen[0][1], two.seen[0][1])


def test_one_owner_of_the_attack_and_full_precision_inputs():
    with pytest.raises(UserError, match="both own the attack on labeled inputs"):
        train({"pgd_at": PGDAT(), "trades": TRADES()})
    with pytest.raises(
        UserError, match=r"methods.pgd_at does not work in trainer.precision=bf16-true"
    ):
        train({"pgd_at": PGDAT()}, precision="bf16-true")


def test_dlr_with_two_classes_is_refused():
    with pytest.raises(UserError, match=r"methods.pgd_at.loss=dlr: task 'label' has 2 classes"):
        build({"pgd_at": PGDAT(loss="dlr")}, Setup(tasks={"label": 2}))
    build({"pgd_at": PGDAT(loss="dlr")}, Setup(tasks={"label": 3}))


@pytest.mark.parametrize(
    ("attack", "kind"),
    [(MIFGSM(3), "image"), (DIM(2, probability=1.0, resize=0.5), "image"), (MIFGSM(3), "text")],
)
def test_another_attack_in_the_balls_of_the_method(attack, kind):
    """δ of the first step is the attack's on the student, with the random numbers of the step."""
    setup = Setup(kind=kind, dropout=0.0)
    watching = Watching("l2", 0.5, attack=attack)
    train({"pgd_at": watching}, steps=1, kind=kind, dropout=0.0, view=clipped)
    before, delta, _ = watching.seen[0]
    network = setup.network().eval()
    x, mask = before.embedded.x.detach(), before.embedded.mask

    def model(points):
        return network(Embedded(points, mask)).logits

    def draw(purpose):
        return Randomness(setup.seed, 0).draw(f"pgd_at/{purpose}", len(x))

    expected = attack(
        Victim(model, x, before.targets), Threat.around(before.embedded, "l2", 0.5), draw
    )
    torch.testing.assert_close(delta, expected - x, atol=1e-6, rtol=0)
    assert float(delta.detach().flatten(1).norm(dim=1).max()) > 0.2


def test_an_attack_by_queries_trains_too():
    watching = Watching(eps=0.2, attack=Square(5))
    train({"pgd_at": watching}, steps=1, view=clipped)
    moved = watching.seen[0][1].flatten(1).abs().amax(1)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.2), atol=1e-6, rtol=0)


def test_attacks_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"methods.pgd_at.attack: Square knows linf; got norm=l2"):
        train({"pgd_at": PGDAT("l2", attack=Square(5))})
    with pytest.raises(UserError, match=r"methods.pgd_at.attack.reach: got 7: the kernel is 15"):
        method = PGDAT(attack=TIM())
        method.key = "pgd_at"
        method.check(Environment("image", frozenset(), shape=(1, 8, 8)))
    with pytest.raises(UserError, match=r"methods.pgd_at.attack: 'Linear' is no attack"):
        train({"pgd_at": PGDAT(attack=nn.Linear(2, 2))})
    for attack in (Square(5), BIM(target="least_likely")):
        with pytest.raises(UserError, match=r"methods.trades.attack: raises a divergence, and"):
            train({"trades": TRADES(attack=attack)})
