import pytest
import torch
import torch.nn.functional as F

from foundation.randomness import Randomness
from methods.mixing import blend, draw_mixing, mix_targets
from methods.regularization.mixup import Mixup
from recipes.step import Embedded, Input, Progress, Step, Stream
from recipes.step.criterion import Criterion, cross_entropy
from tests.support.harness import Setup, build, noisy_view, train


def step_at(
    number: int, embedded: Embedded, targets: torch.Tensor, rank: int = 0, world: int = 1
) -> Step:
    step = Step(
        streams={},
        randomness=Randomness(0, number, rank, world),
        make_view=noisy_view,
        embed=lambda view, network: Embedded(view),
        criterion=Criterion(),
        progress=Progress(number, 10),
    )
    step.add(Input("labeled", embedded, {"label": targets}))
    return step


RECIPE = build({}, Setup())
PIXELS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 0, 1, -1])


def mixed(
    method: Mixup, number: int, embedded: Embedded | None = None
) -> tuple[Input, torch.Tensor, torch.Tensor]:
    method.key = "mixup"
    step = step_at(number, embedded or Embedded(PIXELS), TARGETS)
    share, partner = draw_mixing(step, "mixup", 6, method.alpha, method.per_sample)
    method.prepare(step, RECIPE)
    return step.inputs["labeled"], share, partner


def test_inputs_and_targets_are_mixed_alike():
    entry, share, partner = mixed(Mixup(per_sample=True), 1)
    dense = F.one_hot(TARGETS.clamp_min(0), 3) * (TARGETS >= 0)[:, None]
    for i in range(6):
        lam, j = float(share[i]), int(partner[i])
        torch.testing.assert_close(entry.embedded.x[i], lam * PIXELS[i] + (1 - lam) * PIXELS[j])
        torch.testing.assert_close(entry.targets["label"][i], lam * dense[i] + (1 - lam) * dense[j])
    assert sorted(partner.tolist()) == list(range(6))


def test_cross_entropy_is_linear_in_the_mixed_target():
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    a, b, lam = (
        torch.tensor([0, 1, 2, 0, 1, 2]),
        torch.tensor([1, 1, 0, 2, 0, 0]),
        torch.full((6,), 0.3),
    )
    entry, partner = (
        Input("labeled", Embedded(PIXELS), {"label": a}),
        torch.tensor([1, 4, 3, 2, 0, 0]),
    )
    dense = mix_targets(entry, partner, lam, RECIPE)["label"]
    expected = 0.3 * F.cross_entropy(z, a, reduction="none") + 0.7 * F.cross_entropy(
        z, b, reduction="none"
    )
    torch.testing.assert_close(F.one_hot(a[partner], 3), F.one_hot(b, 3))
    torch.testing.assert_close(cross_entropy(z, dense), expected)


def test_share_one_is_the_identity_and_share_zero_the_partner():
    x, other = PIXELS[:2], PIXELS[2:4]
    assert torch.equal(blend(x, other, torch.ones(2)), x)
    assert torch.equal(blend(x, other, torch.zeros(2)), other)


def test_one_share_a_batch_unless_one_a_sample_and_a_new_one_each_step():
    whole, each = mixed(Mixup(), 1)[1], mixed(Mixup(per_sample=True), 1)[1]
    assert len(whole.unique()) == 1
    assert len(each.unique()) == 6
    assert float(mixed(Mixup(), 2)[1][0]) != float(whole[0])


def test_at_least_half_keeps_the_first_sample_dominant():
    number = next(n for n in range(50) if float(mixed(Mixup(), n)[1][0]) < 0.4)
    entry, share, partner = mixed(Mixup(at_least_half=True), number)
    torch.testing.assert_close(entry.embedded.x, blend(PIXELS, PIXELS[partner], 1 - share))


def test_all_ranks_share_one_coefficient_and_mix_within_their_rows():
    shares = []
    for rank in range(2):
        step = step_at(3, Embedded(PIXELS), TARGETS, rank, 2)
        share, partner = draw_mixing(step, "mixup", 6, 1.0, per_sample=False)
        shares.append(float(share[0]))
        assert sorted(partner.tolist()) == list(range(6))
    assert shares[0] == shares[1]


def test_shares_follow_the_beta_distribution():
    draws = torch.cat([mixed(Mixup(alpha=0.4, per_sample=True), n)[1] for n in range(300)])
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(draws.var()) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.015)


def test_texts_mix_as_embeddings_under_the_union_of_masks():
    x = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.tensor([1, 2, 3, 4, 5, 2])[:, None]
    entry, share, partner = mixed(Mixup(), 4, Embedded(x, mask))
    torch.testing.assert_close(entry.embedded.x, blend(x, x[partner], share))
    assert torch.equal(entry.embedded.mask, mask | mask[partner])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_true_step_equals_mixing_by_hand(kind):
    setup = Setup(kind=kind, steps=1)
    result = train({"mixup": Mixup()}, kind=kind, steps=1)
    network, batch = setup.network(), setup.batches({"labeled"})[0]["labeled"]
    view = noisy_view(Stream("labeled", **batch), "weak", Randomness(0, 0))
    x, mask, _ = network.embed(view)
    share, partner = draw_mixing(
        step_at(0, Embedded(x), batch["targets"]["label"]), "mixup", 6, 1.0, False
    )
    lam, y = float(share[0]), batch["targets"]["label"]
    logits = network(
        Embedded(lam * x + (1 - lam) * x[partner], None if mask is None else mask | mask[partner])
    )
    z = logits.logits["label"]
    expected = lam * F.cross_entropy(z, y) + (1 - lam) * F.cross_entropy(z, y[partner])
    assert result.losses[0] == pytest.approx(expected.item(), abs=1e-6)
