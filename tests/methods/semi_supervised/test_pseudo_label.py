import pytest
import torch
import torch.nn.functional as F

from methods.semi_supervised.pseudo_label import PseudoLabel
from recipes.step import Step
from tests.support.harness import step_with, train


def after_terms(
    method: PseudoLabel, logits: torch.Tensor, progress: tuple[int, int] = (1, 1)
) -> Step:
    method.key = "pseudo_label"
    at = step_with({"unlabeled/weak": logits}, progress=progress)
    method.terms(at, context=None)
    return at


def test_ramp_of_the_paper():
    method, z = PseudoLabel(weight=3.0, ramp_start=0.1, ramp_end=0.6), torch.zeros(1, 2)
    steps = (50, 100, 350, 600, 900)
    weights = [after_terms(method, z, (t, 1000)).terms["pseudo_label"].weight for t in steps]
    assert weights == pytest.approx([0, 0, 1.5, 3, 3])


def test_equals_cross_entropy_on_its_own_argmax_with_the_gradient_of_log_max():
    z = 3 * torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss = after_terms(PseudoLabel(threshold=0.0), a).terms["pseudo_label"].reduced()
    torch.testing.assert_close(loss, F.cross_entropy(z, z.argmax(1)))
    loss.backward()
    (-torch.softmax(b, 1).amax(1).log().mean()).backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_the_mask_counts_in_the_denominator():
    z = torch.tensor([[4.0, 0, 0], [1.0, 0, 0]])
    term = after_terms(PseudoLabel(threshold=0.95), z).terms["pseudo_label"]
    assert float(term.reduced()) == pytest.approx(
        float(F.cross_entropy(z[:1], torch.tensor([0]))) / 2
    )


def test_entropy_term_with_gradient():
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    at = after_terms(PseudoLabel(entropy_weight=0.5, ramp_end=1.0), z, (1, 4))
    assert at.terms["pseudo_label/entropy"].weight == pytest.approx(0.125)
    loss = at.terms["pseudo_label/entropy"].reduced()
    p = torch.softmax(z.detach(), 1)
    torch.testing.assert_close(loss.detach(), -(p * p.log()).sum(1).mean())
    loss.backward()
    assert z.grad.abs().sum() > 0


def test_above_one_it_is_supervised_training_and_its_diagnostics_say_so():
    idle, plain = train({"pseudo_label": PseudoLabel(threshold=1.1)}, steps=4), train(steps=4)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(idle.parameters[name], value, atol=1e-6, rtol=0)
    assert idle.history[0]["train/mask_rate"] == 0
    assert "train/pseudo_accuracy" not in idle.history[0]


def test_batch_norm_counts_labeled_samples_only_where_asked():
    """Normalised by its own batch, the unlabeled stream then leaves no trace in the running
    statistics."""
    plain = train(steps=3, norm=True, lr=0.0)
    apart = train({"pseudo_label": PseudoLabel(own_statistics=True)}, steps=3, norm=True, lr=0.0)
    joint = train({"pseudo_label": PseudoLabel(own_statistics=False)}, steps=3, norm=True, lr=0.0)
    name = "body.1.running_mean"
    torch.testing.assert_close(apart.parameters[name], plain.parameters[name])
    assert not torch.allclose(joint.parameters[name], plain.parameters[name], atol=1e-4)
    for result in (plain, apart, joint):
        assert int(result.parameters["body.1.num_batches_tracked"]) == 3
