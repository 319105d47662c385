import copy

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.metric_learning.triplet import Triplet
from methods.multi_task.pcgrad import PCGrad
from methods.regularization.sam import SAM
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.meta_pseudo_labels import (
    TEACHER,
    MetaPseudoLabels,
    Reward,
    sampled,
    total_loss,
)
from recipes.services.detached import gradient_step
from recipes.step import Stream
from tests.support.harness import Setup, build, fit, noisy_view, train, values_differ


# -- worked numbers: two classes, teacher logits (t, 0), student logits (w, 0), label 0 ---------------
def logits(value):
    return torch.stack([value, torch.zeros_like(value)]).unsqueeze(0)


def labeled_loss(w):
    return total_loss({"label": logits(w)}, {"label": torch.tensor([0])})


def exact_gradient(t, eta=1.0):
    teacher = torch.tensor(t, requires_grad=True)
    q = torch.softmax(logits(teacher), 1)

    def on_labels(parameters):
        return F.cross_entropy(logits(parameters["w"]), q)

    moved = gradient_step(on_labels, {"w": torch.tensor(0.0)}, eta)
    return float(torch.autograd.grad(labeled_loss(moved["w"]), teacher)[0])


def rewards(eta=1.0):
    """h for both labels that may be drawn."""
    found = []
    for label in (0, 1):

        def on_labels(parameters, label=label):
            return F.cross_entropy(logits(parameters["w"]), torch.tensor([label]))

        start = torch.tensor(0.0)
        moved = gradient_step(on_labels, {"w": start}, eta)["w"]
        found.append(float((labeled_loss(start) - labeled_loss(moved)).detach()))
    return found


def enumerated_gradient(t, eta=1.0):
    """The mean over labels y ~ p_T of h_y ∇ CE(y, T)."""
    teacher = torch.tensor(t, requires_grad=True)
    p = torch.softmax(logits(teacher), 1)[0].tolist()
    total = 0.0
    for label, h in enumerate(rewards(eta)):
        loss = F.cross_entropy(logits(teacher), torch.tensor([label]))
        total += p[label] * h * float(torch.autograd.grad(loss, teacher)[0])
    return total


def test_worked_rewards():
    assert rewards() == pytest.approx([0.219070, -0.280930], abs=1e-6)
    assert rewards(eta=0.0) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("t", "exact", "hard"), [(0.0, -0.125, -0.125), (0.7, -0.101556, -0.110856)]
)
def test_worked_gradients(t, exact, hard):
    assert exact_gradient(t) == pytest.approx(exact, abs=1e-6)
    assert enumerated_gradient(t) == pytest.approx(hard, abs=1e-6)


def test_reward_times_gradient_of_the_drawn_label_is_the_gradient_of_the_expected_loss():
    """Three classes, one sample: the objective is enumerated, and differentiated by autograd."""
    source = torch.Generator().manual_seed(3)
    z = torch.randn(1, 3, generator=source, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 3, generator=source, dtype=torch.float64)
    x_u, x_l = torch.randn(2, 1, 4, generator=source, dtype=torch.float64)
    target = torch.tensor([1])
    p = torch.softmax(z, 1)[0]
    objective = torch.zeros((), dtype=torch.float64)
    estimate = torch.zeros_like(z)
    for label in range(3):

        def on_labels(parameters, label=label):
            return F.cross_entropy(x_u @ parameters["w"], torch.tensor([label]))

        new = gradient_step(on_labels, {"w": w}, 0.3)["w"].detach()
        old_loss = F.cross_entropy(x_l @ w, target)
        new_loss = F.cross_entropy(x_l @ new, target)
        objective = objective + p[label] * new_loss
        loss = F.cross_entropy(z, torch.tensor([label]))
        gradient = torch.autograd.grad(loss, z, retain_graph=True)[0]
        estimate += p[label].detach() * (old_loss - new_loss) * gradient
    expected = torch.autograd.grad(objective, z)[0]
    torch.testing.assert_close(estimate, expected, atol=1e-14, rtol=0)
    # new - old, as in the released codes, climbs
    assert float((estimate * expected).sum()) > 0


def test_labels_are_drawn_from_the_distribution():
    q = torch.tensor([[0.2, 0.5, 0.3]])
    numbers = torch.tensor([0.0, 0.19, 0.2, 0.69, 0.7, 0.999])
    assert sampled(q.expand(6, 3), numbers).tolist() == [0, 0, 1, 1, 2, 2]
    # the last sum may be a little below one
    assert sampled(torch.tensor([[0.5, 0.4999999]]), torch.tensor([0.99999999])).tolist() == [1]
    certain = torch.tensor([[0.0, 1.0, 0.0]]).expand(3, 3)
    assert sampled(certain, torch.tensor([0.0, 0.5, 0.9])).tolist() == [1, 1, 1]


def test_the_baseline_is_the_mean_of_earlier_rewards():
    reward = Reward()
    assert float(reward.take(torch.tensor(1.0), 0.9)) == pytest.approx(1.0)
    assert float(reward.take(torch.tensor(1.0), 0.9)) == pytest.approx(0.9)
    assert float(reward.mean) == pytest.approx(0.19)
    assert float(reward.take(torch.tensor(2.0), None)) == 2.0


def test_missing_labels_do_not_count():
    z = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    target = {"a": torch.tensor([0, -1]), "b": torch.tensor([-1, -1])}
    found = total_loss({"a": z, "b": z}, target)
    assert float(found) == pytest.approx(float(F.cross_entropy(z[:1], torch.tensor([0]))))


# -- a step against a loop written out ---------------------------------------------------------------
def views(setup):
    batch = setup.batches({"labeled", "unlabeled"})[0]
    streams = {name: Stream(name, **batch[name]) for name in ("labeled", "unlabeled")}

    def view(stream, name):
        return noisy_view(streams[stream], name, Randomness(setup.seed, 0))

    return view, batch["labeled"]["targets"]["label"]


def forward(network, view):
    return network(network.embed(view)).logits["label"]


@torch.no_grad()
def guesses(network, view, wanted):
    """Aligned predictions of a first step, in which earlier ones are uniform. wanted: class
    frequencies of the labels."""
    q = torch.softmax(forward(network, view("unlabeled", "weak")), 1) * wanted
    return q / q.sum(1, keepdim=True)


def uda(network, view, q, threshold, temperature=0.4):
    kept = (q.amax(1) > threshold).float()
    sharp = q ** (1 / temperature)
    sharp = sharp / sharp.sum(1, keepdim=True)
    log_p = F.log_softmax(forward(network, view("unlabeled", "strong")), 1)
    return (kept * (sharp * (sharp.log() - log_p)).sum(1)).mean()


@pytest.mark.parametrize("align", [0, 2])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_one_step_is_that_of_the_paper(kind, align):
    """SGD with momentum 0: student, reward, teacher, one after the other; and with aligned targets
    of UDA."""
    lr = 0.5
    setup = Setup(kind=kind, steps=1, lr=lr)
    settings = {"student_start": 0.0, "uda_ramp": 0.0, "uda_weight": 2.0, "baseline": None}
    method = MetaPseudoLabels(**settings, align=align)
    method.key = "meta_pseudo_labels"
    recipe = build({"meta_pseudo_labels": method}, setup)
    student, teacher = copy.deepcopy(recipe.network), copy.deepcopy(recipe.networks[TEACHER])
    view, target = views(setup)
    counts = recipe.statistics.counts("label").float()
    assert len(counts.unique()) > 1
    q_uda = guesses(teacher, view, counts / counts.sum() if align else torch.ones(3))
    method.threshold = float(q_uda.amax(1).median())  # half of the samples pass
    fit(recipe, setup, method)

    strong = view("unlabeled", "strong")
    q = torch.softmax(forward(teacher, strong), 1).detach()
    draw = Randomness(0, 0).draw("meta_pseudo_labels/label", len(q)).uniform()
    labels = sampled(q, draw)
    assert len(labels.unique()) > 1
    old = F.cross_entropy(forward(student, view("labeled", "weak")), target)
    step(student, F.cross_entropy(forward(student, strong), labels), lr)
    new = F.cross_entropy(forward(student, view("labeled", "weak")), target)
    reward = (old - new).detach()
    loss = reward * F.cross_entropy(forward(teacher, strong), labels)
    loss = loss + F.cross_entropy(forward(teacher, view("labeled", "weak")), target)
    step(teacher, loss + 2.0 * uda(teacher, view, q_uda, method.threshold), lr)

    assert abs(float(reward)) > 1e-4
    assert float(recipe.method_modules["meta_pseudo_labels"].last) == pytest.approx(
        float(reward), abs=1e-6
    )
    for mine, own in ((recipe.network, student), (recipe.networks[TEACHER], teacher)):
        for name, value in own.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], value, atol=1e-6, rtol=0)


def step(network, loss, lr):
    weights = list(network.parameters())
    with torch.no_grad():
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.sub_(lr * gradient)


def test_the_exact_gradient_goes_through_the_students_step():
    """Soft labels, a virtual step written out with `torch.func`, only this term."""
    lr = 0.5
    setup = Setup(steps=1, lr=lr)
    method = MetaPseudoLabels(feedback="exact", student_start=0.0, uda_weight=0.0, label_weight=0.0)
    recipe = build({"meta_pseudo_labels": method}, setup)
    student, teacher = copy.deepcopy(recipe.network), copy.deepcopy(recipe.networks[TEACHER])
    fit(recipe, setup, method)

    view, target = views(setup)
    strong = view("unlabeled", "strong")
    q = torch.softmax(forward(teacher, strong), 1)
    names = [name for name, _ in student.named_parameters()]
    weights = dict(student.named_parameters())
    inner = F.cross_entropy(forward(student, strong), q)
    gradients = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
    moved = {n: weights[n].detach() - lr * g for n, g in zip(names, gradients, strict=True)}
    embedded = student.embed(view("labeled", "weak"))
    after = torch.func.functional_call(student, moved, (embedded,)).logits["label"]
    step(teacher, F.cross_entropy(after, target), lr)
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(recipe.networks[TEACHER].state_dict()[name], value)
    for name, value in moved.items():
        torch.testing.assert_close(recipe.network.state_dict()[name], value.detach())


# -- in runs -----------------------------------------------------------------------------------------
def test_the_student_never_sees_a_label():
    """Other labels change the teacher at once, the student only through what the teacher says."""

    def run(shift):
        class Shifted(MetaPseudoLabels):
            def prepare(self, step, context):
                stream = step.streams["labeled"]
                target = (stream.targets["label"] + shift) % 3
                stream.targets["label"] = target
                step.change("labeled", targets={"label": target})
                super().prepare(step, context)

        return train({"m": Shifted(student_start=0.0)}, steps=1).recipe

    one, other = run(0), run(1)
    assert values_differ(one.network.state_dict(), other.network.state_dict()) == []
    states = [recipe.networks[TEACHER].state_dict() for recipe in (one, other)]
    assert values_differ(*states)


def test_without_uda_nothing_is_aligned():
    result = train({"m": MetaPseudoLabels(uda_weight=0.0)}, steps=1)
    assert "m_recent" not in result.recipe.method_modules


def test_the_student_waits():
    setup = Setup(steps=2, total=4)
    start = setup.network().state_dict()
    waiting = train({"m": MetaPseudoLabels(student_start=0.5)}, steps=2, total=4)
    assert values_differ(start, waiting.parameters) == []
    assert float(waiting.recipe.method_modules["m"].last) == 0.0
    learning = train({"m": MetaPseudoLabels(student_start=0.25)}, steps=2, total=4)
    assert values_differ(start, learning.parameters)


def test_rewards_are_measured_without_noise_and_leave_no_trace():
    """Dropout is off, batch normalization by the batch, running statistics as after one forward."""
    result = train({"m": MetaPseudoLabels(student_start=0.0)}, norm=True, dropout=0.5, steps=2)
    network = result.recipe.network
    assert int(network.body[1].num_batches_tracked) == 2
    assert all(module.training for module in network.modules())
    assert result.recipe.networks[TEACHER].training


def test_without_a_step_there_is_no_reward():
    result = train({"m": MetaPseudoLabels(student_start=0.0, baseline=None)}, lr=0.0, steps=1)
    assert float(result.recipe.method_modules["m"].last) == 0.0


@pytest.mark.parametrize("feedback", ["finite_difference", "exact"])
def test_several_tasks_with_missing_labels(feedback):
    method = MetaPseudoLabels(feedback=feedback, student_start=0.0)
    result = train({"m": method}, tasks={"a": 3, "b": 2}, missing=True, labeled=9, kind="text")
    assert all(row["train/loss"] == row["train/loss"] for row in result.history)
    assert {"train/m/a", "train/m/b", "train/m/uda/a"} <= result.history[0].keys()


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (SAM(), "both own the second pass"),
        (FixMatch(), "both own the pseudo-labels"),
        (Triplet(), "no labels for a loss on its embedding"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_it_does_not_go_with(other, reason):
    with pytest.raises(UserError, match=reason):
        Setup().composition({"m": MetaPseudoLabels(), "other": other})


def test_it_does_not_go_with_methods_that_combine_gradients_nor_with_accumulation():
    with pytest.raises(UserError, match="both own the combination of loss terms"):
        Setup(tasks={"a": 3, "b": 2}).composition({"m": MetaPseudoLabels(), "g": PCGrad()})
    with pytest.raises(UserError, match="accumulate"):
        Setup(accumulate=2).composition({"m": MetaPseudoLabels()})


def test_settings_without_effect_are_named():
    assert MetaPseudoLabels().remarks() == []
    (line,) = MetaPseudoLabels(feedback="exact", labels="argmax").remarks()
    assert line.startswith("labels=argmax has no effect")
    (line,) = MetaPseudoLabels(step_size=0.1).remarks()
    assert line.startswith("step_size has no effect")
    assert MetaPseudoLabels(student_start=1.0).idle_settings() == ["student_start"]
