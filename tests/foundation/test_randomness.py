import pytest
import torch

from foundation.randomness import (
    GOLDEN,
    Draw,
    Randomness,
    SampleRandomness,
    derive_seed,
    generator,
    scramble,
    seed_default,
)

KINDS = {
    "uniform": lambda draw: draw.uniform(2, low=-1.0, high=3.0),
    "normal": lambda draw: draw.normal(2, 2),
    "integers": lambda draw: draw.integers(3, 9, 4),
    "bernoulli": lambda draw: draw.bernoulli(0.3, 5),
    "beta": lambda draw: draw.beta(0.5, 2.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_draw_their_rows_of_the_global_batch(kind, world):
    whole = KINDS[kind](Randomness(0, 5).draw("x", 8))
    parts = [
        KINDS[kind](Randomness(0, 5, rank, world).draw("x", 8 // world)) for rank in range(world)
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_keys_draw_equal_numbers_whatever_ran_before(kind):
    first = KINDS[kind](Randomness(1, 2).draw("x", 6))
    torch.manual_seed(99)
    torch.rand(5)
    Randomness(1, 2).draw("y", 6).normal()
    assert torch.equal(KINDS[kind](Randomness(1, 2).draw("x", 6)), first)


@pytest.mark.parametrize(
    "other", [(Randomness(1, 2), "y"), (Randomness(1, 3), "x"), (Randomness(2, 2), "x")]
)
def test_another_purpose_step_or_seed_draws_other_numbers(other):
    randomness, purpose = other
    assert not torch.equal(
        Randomness(1, 2).draw("x", 6).normal(), randomness.draw(purpose, 6).normal()
    )


def test_two_draws_of_one_purpose_go_on_and_the_key_starts_anew():
    draw = Randomness(1, 2).draw("x", 4)
    first, second = draw.uniform(), draw.uniform()
    assert not torch.equal(first, second)
    again = Randomness(1, 2).draw("x", 4)
    assert torch.equal(again.uniform(), first) and torch.equal(again.uniform(), second)


def test_shared_numbers_are_equal_on_all_ranks():
    a, b = (Randomness(0, 1, rank, 2).shared("lam", 3).beta(1.0, 1.0) for rank in range(2))
    assert torch.equal(a, b) and len(a) == 3


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Randomness(0, 0).draw("x", 5).normal(7)
    assert torch.equal(torch.rand(3), expected)


def test_seeds_are_stable_over_processes_and_tell_keys_apart():
    assert derive_seed(0, 1, "weak") == 8764647178731810992
    seeds = {
        derive_seed(seed, step, purpose)
        for seed in range(5)
        for step in range(50)
        for purpose in "abc"
    }
    assert len(seeds) == 750
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert torch.rand(1, generator=generator("a")) != torch.rand(1, generator=generator("b"))


def many() -> Draw:
    return Randomness(0, 0).draw("many", 20000)


def distance(sample: torch.Tensor, cumulative) -> float:
    """Kolmogorov and Smirnov's: the largest gap between empirical and true distribution; .0115 at 1
    % for 20000."""
    ordered = sample.double().sort().values
    n = len(ordered)
    expected, steps = cumulative(ordered), torch.arange(1, n + 1) / n
    return float(torch.maximum((steps - expected).abs(), (steps - 1 / n - expected).abs()).max())


def test_uniform_normal_and_beta_are_distributed_as_they_say():
    assert distance(many().uniform(low=2.0, high=4.0), lambda x: (x - 2) / 2) < 0.0115
    assert distance(many().normal(), torch.special.ndtr) < 0.0115
    assert distance(many().beta(2.0, 1.0), lambda x: x**2) < 0.0115
    assert distance(many().beta(1.0, 3.0), lambda x: 1 - (1 - x) ** 3) < 0.0115
    arcsine = many().beta(0.5, 0.5)
    assert distance(arcsine, lambda x: 2 / torch.pi * torch.asin(x.sqrt())) < 0.0115


def test_ranges_and_frequencies():
    uniform = many().uniform(low=-1.0, high=1.0)
    assert float(uniform.min()) >= -1 and float(uniform.max()) < 1
    whole = many().integers(3, 7)
    assert whole.dtype == torch.int64
    torch.testing.assert_close(
        torch.bincount(whole, minlength=7)[3:] / 20000, torch.full((4,), 0.25), atol=0.015, rtol=0
    )
    assert torch.bincount(whole)[:3].sum() == 0
    coin = many().bernoulli(0.2)
    assert coin.dtype == torch.bool and float(coin.float().mean()) == pytest.approx(0.2, abs=0.012)


def test_rows_are_independent():
    x = Randomness(3, 1).draw("pairs", 4000).normal(2)
    assert abs(float((x[:, 0] * x[:, 1]).mean())) < 0.06
    assert abs(float((x[1:, 0] * x[:-1, 0]).mean())) < 0.06


def test_seeding_the_default_generator_equals_torchs_own():
    torch.manual_seed(11)
    expected = torch.rand(4)
    seed_default(11, torch.device("cpu"))
    assert torch.equal(torch.rand(4), expected)


def test_scramble_is_splitmix64():
    """The published sequence for the seed 1234567."""
    states = 1234567 + torch.arange(1, 4) * GOLDEN
    assert [v % 2**64 for v in scramble(states).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_a_sample_draws_the_same_in_every_company():
    index = torch.tensor([7, 3, 11, 4_000_000_000])
    for kind in ("uniform", "normal", "integers"):
        whole = KINDS[kind](SampleRandomness(0, index).draw("x"))
        part = KINDS[kind](SampleRandomness(0, index[[2, 1]]).draw("x"))
        assert torch.equal(whole[[2, 1]], part)
        assert not torch.equal(whole, KINDS[kind](SampleRandomness(0, index).draw("y")))
        assert not torch.equal(whole, KINDS[kind](SampleRandomness(1, index).draw("x")))


def test_draws_of_samples_have_the_moments_of_their_distribution():
    draw = SampleRandomness(0, torch.arange(200)).draw("x")
    uniform, normal, whole = draw.uniform(500), draw.normal(500), draw.integers(-2, 3, 500)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(uniform.var()) == pytest.approx(1 / 12, abs=0.002)
    assert (float(normal.mean()), float(normal.var())) == (
        pytest.approx(0, abs=0.015),
        pytest.approx(1, abs=0.02),
    )
    assert whole.unique().tolist() == [-2, -1, 0, 1, 2] and float(
        whole.float().mean()
    ) == pytest.approx(0, abs=0.02)
    # neither neighbors in a row nor neighboring samples are alike
    for a, b in ((normal[:, 1:], normal[:, :-1]), (normal[1:], normal[:-1])):
        assert abs(float((a * b).mean())) < 0.02
    assert not torch.equal(uniform[:, :5], draw.uniform(5))
