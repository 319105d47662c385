"""One pixel attack. Su, Vargas and Sakurai, One Pixel Attack for Fooling Deep Neural Networks, IEEE
Transactions on Evolutionary Computation 2019, arXiv 1710.08864."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from foundation.errors import UserError
from foundation.randomness import RowNumbers
from foundation.types import Count
from methods.adversarial.attacks.attack import Draws, Queried, QueryAttack, Victim, decades
from methods.adversarial.attacks.threat import Norm, Threat
from recipes.contract.environment import Environment

# entries of the pictures that are forwarded at once, where a batch is smaller
AT_ONCE = 2**20


def painted(x: Tensor, genes: Tensor) -> Tensor:
    """Each picture [N, C, H, W] with the pixels of its candidate.

    genes: [N, k, 2 + C] in [0, 1]: row and column as shares of the sides, and the color.
    """
    height, width = x.shape[2:]
    row = (genes[..., 0] * height).long().clamp_max(height - 1)
    column = (genes[..., 1] * width).long().clamp_max(width - 1)
    samples = torch.arange(len(x), device=x.device)
    changed = x.clone()
    for pixel in range(genes.shape[1]):  # of two at one place the later one counts
        changed[samples, :, row[:, pixel], column[:, pixel]] = genes[:, pixel, 2:]
    return changed


def others(number: Tensor, taken: list[Tensor]) -> Tensor:
    """The members that `number` counts where those `taken` are left out: uniform on the rest if
    `number` is uniform below its size."""
    for member in torch.stack(taken).sort(0).values:
        number = number + (number >= member)
    return number


def parents(rows: RowNumbers, population: int, device: torch.device) -> list[Tensor]:
    """Three members for every child j, int64 [N, population] each, different from each other and
    from j."""
    child = torch.arange(population, device=device)
    taken: list[Tensor] = []
    for left in range(population - 1, population - 4, -1):
        number = rows.integers(0, left, population)
        taken.append(others(number, [child.expand_as(number), *taken]))
    return taken


def first_genes(rows: RowNumbers, population: int, pixels: int, channels: int) -> Tensor:
    """[N, population, k, 2 + C]: uniform places, colors from N(128, 127) of 255, clipped."""
    places = rows.uniform(population, pixels, 2)
    colors = (128 + 127 * rows.normal(population, pixels, channels)) / 255
    return torch.cat([places, colors.clamp(0, 1)], dim=3)


@dataclass
class Evolution:
    """The samples that are still attacked.

    rows: int64 [n], their rows in the batch. genes: [n, P, k, 2 + C]. fitness: [n, P], the
    cross-entropy, which rises as the probability of the label falls.
    """

    victim: Victim
    rows: Tensor
    genes: Tensor
    fitness: Tensor

    @classmethod
    def start(cls, victim: Victim, genes: Tensor) -> "Evolution":
        rows = torch.arange(len(victim.x), device=victim.x.device)
        return cls(victim, rows, genes, fitness_of(victim, rows, genes))

    def generation(self, rows: RowNumbers, factor: float) -> None:
        """A child x₁ + F (x₂ - x₃) of every member takes its place if it is fitter."""
        index = torch.arange(len(self.rows), device=self.rows.device)[:, None]
        population = self.genes.shape[1]
        one, two, three = (p[self.rows] for p in parents(rows, population, self.rows.device))
        moved = self.genes[index, two] - self.genes[index, three]
        children = (self.genes[index, one] + factor * moved).clamp(0, 1)
        fitness = fitness_of(self.victim, self.rows, children)
        fitter = fitness > self.fitness
        self.genes = torch.where(fitter[..., None, None], children, self.genes)
        self.fitness = torch.where(fitter, fitness, self.fitness)

    def best(self) -> Tensor:
        """[n, C, H, W]: the picture of the fittest member of each sample."""
        index = torch.arange(len(self.rows), device=self.rows.device)
        genes = self.genes[index, self.fitness.argmax(1)]
        return painted(self.victim.x[self.rows], genes)

    def only(self, left: Tensor) -> "Evolution":
        """The search restricted to the samples `left`, bool."""
        return Evolution(self.victim, self.rows[left], self.genes[left], self.fitness[left])


def fitness_of(victim: Victim, rows: Tensor, genes: Tensor) -> Tensor:
    """[n, P]: the cross-entropy of every candidate; many pictures share a forward."""
    samples = rows.repeat_interleave(genes.shape[1])
    candidates = genes.flatten(0, 1)
    size = max(len(victim.x), AT_ONCE // victim.x[0].numel())
    values = []
    for part, pixels in zip(samples.split(size), candidates.split(size), strict=True):
        some = victim.among(part)
        values.append(some.objective("ce")(painted(some.x, pixels)))
    return torch.cat(values).view(len(rows), -1)


@torch.no_grad()
def one_pixel(
    victim: Victim,
    pixels: int,
    population: int,
    generations: int,
    factor: float,
    draw: Draws,
) -> Queried:
    """Differential evolution of the places and colors of `pixels` pixels, until the sample is
    misclassified."""
    x = victim.x.detach().float()
    result = x.clone()
    queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    success = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    first = first_genes(draw("population"), population, pixels, x.shape[1])
    search = Evolution.start(victim, first)
    for number in range(generations + 1):
        if number:
            search.generation(draw(f"generation/{number}"), factor)
        best = search.best()
        result[search.rows] = best
        queries[search.rows] += population
        # the answer for the fittest is known, and not counted again
        missed = victim.among(search.rows).objective("margin")(best) < 0
        success[search.rows] = ~missed
        search = search.only(missed)
        if not len(search.rows):
            break
    return Queried(result, queries, success)


class OnePixel(QueryAttack):
    """x' = x with k pixels of any color, ‖δ‖₀ ≤ k, whose places and colors are the fittest of a
    differential evolution: child = x₁ + F (x₂ - x₃) of three random members replaces its parent if
    the probability of the label is lower. It queries probabilities only.

    Places start uniform, colors at N(128, 127) of 255; children are clipped into the picture. The
    search for a sample ends when it is misclassified. It makes at most population ·
    (generations + 1) forwards per sample. There is no radius: a pixel may take any value in [0, 1].

    pixels: number k of pixels, at least 1; 1 (paper: 1, 3 and 5).
    population: members of the evolution, at least 4; 400 (paper).
    generations: most generations, at least 0; 100 (paper).
    factor: F, scale of the difference in a child, above 0, at most 2; 0.5 (paper).
    """

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    images_only: ClassVar[str] = "OnePixel changes pixels"

    def __init__(
        self,
        pixels: Count = 1,
        population: Annotated[int, Field(ge=4)] = 400,
        generations: Annotated[int, Field(ge=0)] = 100,
        factor: Annotated[float, Field(gt=0, le=2)] = 0.5,
    ):
        self.pixels = pixels
        self.population = population
        self.generations = generations
        self.factor = factor

    def budgets(self) -> list[int]:
        return decades(self.population * (self.generations + 1))

    def queried(self, victim: Victim, threat: Threat, draw: Draws) -> Queried:
        settings = (self.pixels, self.population, self.generations, self.factor)
        return one_pixel(victim, *settings, draw)

    def check(self, key: str, norm: Norm, environment: Environment) -> None:
        super().check(key, norm, environment)
        if environment.shape is None:
            return
        _, height, width = environment.shape
        if self.pixels > height * width:
            problem = f"got {self.pixels}, and pictures have {height * width}"
            raise UserError(f"{key}.pixels", problem, "expected fewer")
