from itertools import pairwise

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.directions import unit
from methods.regularization.sam import SAM
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.vat import VAT, adversarial_direction, draw_noise, spread
from recipes.contract.composition import compose
from recipes.contract.environment import Environment
from recipes.engine.collapse import remedy
from recipes.step import Embedded, Progress, Step
from recipes.step.criterion import Criterion, kl_divergence
from tests.support.harness import VIEWS, noisy_view, train

XI = torch.tensor(0.01)


def divergence_of(network, x):
    q = torch.softmax(network(x), 1).detach()
    return lambda r: kl_divergence(q, network(x + r))


def curvature(network, x) -> torch.Tensor:
    """H = J' (diag p - pp') J, the second derivative of the divergence at r = 0, by its closed
    form."""
    jacobian = torch.autograd.functional.jacobian(lambda v: network(v[None])[0], x)
    p = torch.softmax(network(x[None])[0], 0).detach()
    return jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian


def small(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_worked_example(seed):
    """f(x) = Wx at x = 0: one iteration finds ±(.6, -.8) from any start."""
    W = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    divergence = divergence_of(lambda x: x @ W.T, torch.zeros(1, 2))
    d = adversarial_direction(divergence, noise(1, 2, seed=seed), XI, 1)
    torch.testing.assert_close(d * d[:, :1].sign(), torch.tensor([[0.6, -0.8]]), atol=1e-3, rtol=0)
    for sign in (1, -1):
        assert float(divergence(sign * torch.tensor([[0.6, -0.8]]))) == pytest.approx(
            1.813568, abs=1e-6
        )


def test_many_iterations_find_the_top_eigenvector():
    network, x = small(), noise(3, 6).double()
    # a float32 direction of a float64 network
    d = adversarial_direction(
        lambda r: divergence_of(network, x)(r.double()), noise(3, 6, seed=1), XI, 60
    )
    for row, sample in zip(d, x, strict=True):
        top = torch.linalg.eigh(curvature(network, sample)).eigenvectors[:, -1]
        assert abs(float(row.double() @ top)) > 0.999


def test_more_iterations_never_lower_the_curvature():
    network, x = small(), noise(4, 6).double()
    divergence = divergence_of(network, x)
    values = []
    for iterations in range(6):
        d = adversarial_direction(
            lambda r: divergence(r.double()), noise(4, 6, seed=2), XI, iterations
        ).double()
        values.append(
            torch.stack([v @ curvature(network, s) @ v for v, s in zip(d, x, strict=True)])
        )
    for before, after in pairwise(values):
        assert (after >= before * (1 - 1e-3)).all()
    assert (values[1] > 1.5 * values[0]).any()


def test_no_iteration_leaves_the_random_start():
    start = noise(3, 2, 4)
    assert torch.equal(adversarial_direction(lambda r: r.sum((1, 2)), start, XI, 0), unit(start))


def test_a_direction_does_not_depend_on_its_batch():
    # in double precision: differences along ξ cancel most digits, and kernels sum in their own order
    network, x, start = small(), noise(8, 6).double(), noise(8, 6, seed=3).double()
    whole = adversarial_direction(divergence_of(network, x), start, XI, 2)
    half = adversarial_direction(divergence_of(network, x[:2]), start[:2], XI, 2)
    torch.testing.assert_close(whole[:2], half, atol=1e-9, rtol=0)


def test_units_survive_the_smallest_gradients():
    x = noise(3, 2, 5)
    for scale in (1.0, 1e-30, 1e30):
        torch.testing.assert_close(unit(scale * x).flatten(1).norm(dim=1), torch.ones(3))
        torch.testing.assert_close(unit(scale * x), unit(x))
    assert unit(torch.zeros(1, 4)).tolist() == [[0, 0, 0, 0]]


def test_spread_is_the_deviation_over_real_values():
    x = noise(3, 5, 4)
    deviation, root = spread(Embedded(x))
    torch.testing.assert_close(deviation.flatten(), x.flatten(1).std(1, correction=0))
    size = (x - x.mean((1, 2), keepdim=True)).flatten(1).norm(dim=1)
    torch.testing.assert_close((deviation * root).flatten(), size)
    mask = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    expected = torch.stack([row[kept].std(correction=0) for row, kept in zip(x, mask, strict=True)])
    deviation, root = spread(Embedded(x, mask))
    torch.testing.assert_close(deviation.flatten(), expected)
    torch.testing.assert_close(root.flatten(), (4.0 * mask.sum(1)).sqrt())
    assert spread(Embedded(torch.ones(1, 2, 2)))[0].item() == pytest.approx(1e-3)


class Watch(VAT):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.seen = []

    def terms(self, step, recipe):
        super().terms(step, recipe)
        self.seen.append((step, dict(step.terms)))


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("iterations", [0, 2])
def test_the_perturbation_has_its_size_on_what_is_real(kind, iterations):
    method = Watch(epsilon=0.7, iterations=iterations)
    train({"vat": method}, kind=kind, steps=2)
    for step, _ in method.seen:
        clean, perturbed = (
            step.embedding("unlabeled", "weak"),
            step.inputs["vat/perturbed"].embedded,
        )
        r = (perturbed.x - clean.x).detach()
        torch.testing.assert_close(
            r.flatten(1).norm(dim=1), torch.full((12,), 0.7), atol=1e-6, rtol=1e-5
        )
        if kind == "text":
            assert not clean.mask.all()
            assert (r[~clean.mask] == 0).all()


@pytest.mark.parametrize("kind", ["image", "text"])
def test_without_epsilon_the_size_is_a_share_of_the_samples_own(kind):
    """So one default holds on pictures of any size and on texts of any encoder."""
    method = Watch(epsilon_share=0.3)
    train({"vat": method}, kind=kind, steps=1)
    clean = method.seen[0][0].embedding("unlabeled", "weak")
    r = (method.seen[0][0].inputs["vat/perturbed"].embedded.x - clean.x).detach()
    for moved, x, words in zip(
        r, clean.x.detach(), clean.mask if kind == "text" else r, strict=True
    ):
        own = x[words] if kind == "text" else x
        assert moved.norm() == pytest.approx(0.3 * (own - own.mean()).norm(), rel=1e-5)


def test_the_remedy_of_a_collapse_names_the_size_that_is_in_use():
    environment = Environment(kind="text", views=VIEWS)
    for settings, named in (
        ({"epsilon_share": 0.1}, "epsilon_share (now 0.1)"),
        ({"epsilon": 3.0}, "epsilon (now 3)"),
    ):
        found = remedy(compose({"vat": VAT(**settings)}, environment))
        assert found == f"lower methods.vat.{named} or methods.vat.weight"


def test_the_size_that_is_not_in_use_has_no_effect_and_says_so():
    assert VAT(epsilon=1.0).remarks() == VAT(epsilon_share=0.1).remarks() == []
    ignored = VAT(epsilon=1.0, epsilon_share=0.1)
    assert ignored.remarks() == ["epsilon_share=0.1 has no effect: epsilon is 1"]
    assert VAT(epsilon_share=0.0).idle_settings() == ["epsilon_share"]
    assert VAT(epsilon=1.0, epsilon_share=0.0).idle_settings() == []


def test_special_tokens_stay_as_they_are():
    def framed(stream, view, randomness):
        """The first tokens and the last one of a text are special."""
        made = noisy_view(stream, view, randomness)
        place, last = torch.arange(made["mask"].shape[1]), made["mask"].sum(1, keepdim=True) - 1
        return made | {"content": made["mask"] & (place > 2) & (place < last)}

    method = Watch(epsilon=0.7, iterations=2)
    train({"vat": method}, kind="text", steps=1, view=framed)
    clean, perturbed = (
        method.seen[0][0].embedding("unlabeled", "weak"),
        method.seen[0][0].inputs["vat/perturbed"],
    )
    r, content = (perturbed.embedded.x - clean.x).detach(), clean.content
    assert (r[~content] == 0).all() and (r[content].abs().sum(1) > 0).all()
    has_words = content.any(1)
    assert not has_words.all(), "a text without words stays as it is"
    torch.testing.assert_close(
        r.flatten(1).norm(dim=1), 0.7 * has_words.float(), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["image", "text"])
def test_the_loss_is_the_divergence_from_the_clean_prediction(kind):
    method = Watch(epsilon=0.7)
    history = train({"vat": method}, kind=kind, steps=2, lr=0.0).history
    for (step, terms), row in zip(method.seen, history, strict=True):
        q = step.inputs["vat/perturbed"].targets["label"]  # the network has no dropout
        p = torch.softmax(step.logits("vat/perturbed", "label").detach(), 1)
        expected = (q * (q.log() - p.log())).sum(1)
        torch.testing.assert_close(terms["vat"].values.detach(), expected, atol=1e-6, rtol=0)
        assert terms["vat"].values.requires_grad and not q.requires_grad
        assert (
            row["train/vat"] == pytest.approx(float(expected.mean()), abs=1e-6)
            and row["train/vat"] > 0
        )


@pytest.mark.parametrize(
    "kind, detach, learns",
    [("image", None, False), ("text", None, True), ("image", False, True), ("text", True, False)],
)
def test_the_clean_prediction_has_a_gradient_where_it_is_not_detached(kind, detach, learns):
    """Σ q (log q - log p): dL/dz of the clean logits is q (log q/p - KL), of the perturbed ones
    p - q."""
    gradients = []

    class Gradients(VAT):
        def terms(self, step, recipe):
            super().terms(step, recipe)
            names = ["vat/perturbed"] + ["unlabeled/weak"] * learns
            logits = [step.logits(name, "label") for name in names]
            total = step.terms["vat"].values.sum()
            found = torch.autograd.grad(total, logits, retain_graph=True)
            q = step.inputs["vat/perturbed"].targets["label"]
            gradients.append((q, [z.detach() for z in logits], found))
            assert ("unlabeled/weak" in step.inputs) == learns

    train({"vat": Gradients(epsilon=0.7, detach=detach)}, kind=kind, steps=1)
    q, logits, found = gradients[0]
    p = torch.softmax(logits[0], 1)
    torch.testing.assert_close(found[0], p - q, atol=1e-6, rtol=1e-4)
    if learns:
        q = torch.softmax(logits[1], 1)
        ratio = (q / p).log()
        expected = q * (ratio - (q * ratio).sum(1, keepdim=True))
        torch.testing.assert_close(found[1], expected, atol=1e-6, rtol=1e-4)
        assert float(expected.abs().max()) > 1e-4


@pytest.mark.parametrize("kind, share, weight", [("image", 0.05, 1.0), ("text", 0.016, 0.1)])
def test_the_default_size_and_weight_are_those_of_the_kind(kind, share, weight):
    method = Watch()
    train({"vat": method}, kind=kind, steps=1)
    assert method.seen[0][1]["vat"].weight == weight
    embedded = method.seen[0][0].embedding("unlabeled", "weak")
    deviation, root = spread(embedded)
    r = (method.seen[0][0].inputs["vat/perturbed"].embedded.x - embedded.x).detach()
    torch.testing.assert_close(
        r.flatten(1).norm(dim=1), share * (deviation * root).flatten(), rtol=1e-4, atol=0
    )


def test_the_adversarial_direction_is_worse_than_a_random_one():
    losses = [
        train({"vat": VAT(epsilon=0.5, iterations=k)}, steps=1).history[0]["train/vat"]
        for k in (0, 1, 3)
    ]
    assert losses[1] > 4 * losses[0] and losses[2] >= losses[1]


@pytest.mark.parametrize("settings", [{"epsilon": 0.0}, {"epsilon_share": 0.0}], ids=str)
def test_no_size_no_loss(settings):
    result, plain = train({"vat": VAT(**settings)}, steps=3), train(steps=3)
    assert [row["train/vat"] for row in result.history] == pytest.approx([0, 0, 0], abs=1e-7)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(result.parameters[name], value, atol=1e-6, rtol=0)


def test_batch_statistics_count_the_rest_of_the_step_only():
    plain = train(steps=3, norm=True, lr=0.0)
    result = train({"vat": VAT(entropy_weight=1.0, iterations=2)}, steps=3, norm=True, lr=0.0)
    for name in ("body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"):
        torch.testing.assert_close(result.parameters[name], plain.parameters[name])
    # beside a method that counts the same view, it is counted
    both = train({"vat": VAT(), "fixmatch": FixMatch()}, steps=1, norm=True, lr=0.0)
    alone = train({"fixmatch": FixMatch()}, steps=1, norm=True, lr=0.0)
    name = "body.1.running_mean"
    torch.testing.assert_close(both.parameters[name], alone.parameters[name])


def test_the_attack_leaves_no_gradient_in_the_parameters():
    """Gradients of earlier micro-batches are still lying there while the next one is attacked."""
    pairs = []

    def gradients(network):
        return [None if p.grad is None else p.grad.clone() for p in network.parameters()]

    class Peek(VAT):
        def prepare(self, step, recipe):
            before = gradients(recipe.network)
            super().prepare(step, recipe)
            pairs.extend(zip(before, gradients(recipe.network), strict=True))

    train({"vat": Peek(iterations=3)}, steps=2, accumulate=2)
    assert sum(before is not None for before, _ in pairs) >= len(pairs) / 2
    assert all(
        after is None if before is None else torch.equal(before, after) for before, after in pairs
    )


def test_entropy_term_carries_gradient():
    method = Watch(entropy_weight=0.5, ramp="linear", ramp_end=1.0)
    train({"vat": method}, steps=2, total=4)
    step, terms = method.seen[1]
    p = torch.softmax(step.logits("unlabeled/weak", "label").detach(), 1)
    term = terms["vat/entropy"]
    torch.testing.assert_close(term.values.detach(), -(p * p.log()).sum(1))
    assert term.values.requires_grad
    assert term.weight == pytest.approx(0.125) and terms["vat"].weight == pytest.approx(0.25)


def test_one_perturbation_serves_all_tasks():
    method = Watch(epsilon=0.5)
    history = train({"vat": method}, tasks={"a": 3, "b": 2}, steps=1).history[0]
    assert history["train/vat/a"] > 0 and history["train/vat/b"] > 0
    assert set(method.seen[0][0].inputs["vat/perturbed"].targets) == {"a", "b"}


def test_a_replay_starts_from_the_same_noise():
    starts = []

    class Keep(VAT):
        def attack(self, step, embedded, recipe):
            starts.append(draw_noise(step, self.key, embedded))
            return super().attack(step, embedded, recipe)

    train({"vat": Keep(), "sam": SAM()}, steps=2)
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[2], starts[3])
    assert not torch.equal(starts[0], starts[2])


def drawn(length: int | None, rank: int = 0, world: int = 1, rows: int = 4) -> torch.Tensor:
    step = Step(
        {},
        Randomness(0, 5, rank, world),
        noisy_view,
        lambda v, n: Embedded(v),
        Criterion(),
        Progress(0, 1),
    )
    if length is None:
        return draw_noise(step, "vat", Embedded(torch.zeros(rows, 3, 4, 4)))
    return draw_noise(
        step,
        "vat",
        Embedded(torch.zeros(rows, length, 6), torch.ones(rows, length, dtype=torch.bool)),
    )


def test_noise_depends_neither_on_ranks_nor_on_how_long_the_neighbors_are():
    assert torch.equal(drawn(19)[:, :11], drawn(11))
    assert torch.equal(torch.cat([drawn(19, r, 2, 2)[:, :9] for r in range(2)]), drawn(9))
    assert torch.equal(torch.cat([drawn(None, r, 2, 2) for r in range(2)]), drawn(None))
    # every position has numbers of its own
    assert len(drawn(24).flatten().unique()) == 4 * 24 * 6


@pytest.mark.parametrize("kind", ["image", "text"])
def test_directions_are_found_in_float32_under_bfloat16(kind):
    types = []

    class Keep(VAT):
        def attack(self, step, embedded, recipe):
            direction, q = super().attack(step, embedded, recipe)
            types.extend([direction.dtype, q["label"].dtype])
            return direction, q

    half = train({"vat": Keep(epsilon=0.5)}, kind=kind, precision="bf16-mixed", steps=1).history[0]
    full = train({"vat": VAT(epsilon=0.5)}, kind=kind, steps=1).history[0]
    assert set(types) == {torch.float32}
    with pytest.raises(UserError, match=r"does not work in trainer.precision=bf16-true"):
        train({"vat": VAT()}, kind=kind, precision="bf16-true")
    assert half["train/vat"] == pytest.approx(full["train/vat"], rel=0.1)
