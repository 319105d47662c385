"""The search of GLoRA: the forms of every layer by evolution, on a trained supernet."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from foundation.errors import UserError
from foundation.files import write_json
from foundation.randomness import generator
from foundation.types import Count, Share
from methods.peft.glora import GLoRA, place_name
from methods.peft.glora_forms import SUPPORTS, Forms, drawn_forms, options, write_forms
from methods.peft.glora_supernet import Shared, shared_layers, taken_forms
from recipes.contract import Outcome, Program
from recipes.runs.reopened import Reopened, reopen

BLOCK = 256  # samples of one forward
TRIES = 100  # random candidates before one is made to fit the limit

Candidate = tuple[Forms, ...]  # forms of each layer


class Search(Program):
    """Evolution over the forms of every layer under a limit of parameters, by validation accuracy
    with the supernet's weights; the best forms keep these weights.

    In every generation the `parents` best candidates so far have children: one half by mutation,
    one half by crossover of two of them layer by layer. `evaluated.json` has the accuracy of all
    candidates; a search that was stopped resumes from it.

    run: the run of the supernet, `{NAME}`.
    parameters: most parameters of all layers together, at least 1; null: no limit.
    generations: of children, at least 0; 20 (ours).
    population: candidates of a generation, at least 2; 50 (ours).
    parents: candidates with children, at least 2; 10 (ours).
    mutation: probability that a child draws a form anew, 0 to 1; 0.2 (ours).
    """

    artifacts = {"forms": "forms.json", "weights": "weights.safetensors"}
    resumes = True

    def __init__(
        self,
        run: str,
        parameters: Count | None = None,
        generations: Annotated[int, Field(ge=0)] = 20,
        population: Annotated[int, Field(ge=2)] = 50,
        parents: Annotated[int, Field(ge=2)] = 10,
        mutation: Share = 0.2,
    ):
        self.checkpoint = run
        self.parameters = parameters
        self.generations = generations
        self.population = population
        self.parents = parents
        self.mutation = mutation

    def run(self, folder: Path, seed: int) -> Outcome:
        reopened = reopen(self.checkpoint)
        method = supernet_of(reopened, self.checkpoint)
        network = reopened.recipe.reported()
        layers = shared_layers(network.deltas[method.key])
        space = Space(layers, self.parameters or math.inf)
        judge = Judge(reopened, layers, folder / "evaluated.json")
        best = evolve(self, space, judge, seed)
        sites = [place_name(site) for site in method.sites(network)]
        write_forms(folder / "forms.json", sites, best)
        state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
        taken = taken_forms(state, f"deltas.{method.key}.", layers, best)
        save_file(taken, folder / "weights.safetensors")
        metrics = {"val/accuracy": judge(best), "parameters": float(space.cost(best))}
        return Outcome({**metrics, "candidates": float(len(judge.known))})


def supernet_of(reopened: Reopened, run: str) -> GLoRA:
    methods = reopened.recipe.composition.methods.values()
    found = next((m for m in methods if isinstance(m, GLoRA) and m.mode == "supernet"), None)
    if found is None:
        remedy = "name a run with peft=glora methods.glora.mode=supernet"
        raise UserError("program.run", f"'{run}' is no supernet of glora", remedy)
    return found


# -- candidates ------------------------------------------------------------------------------------
class Space:
    """Candidates within the limit."""

    def __init__(self, layers: Sequence[Shared], limit: float):
        self.layers = layers
        self.limit = limit

    def cost(self, candidate: Candidate) -> int:
        return sum(layer.cost(forms) for layer, forms in zip(self.layers, candidate, strict=True))

    def random(self, *key: object) -> Candidate:
        for number in range(TRIES):
            candidate = tuple(
                drawn_forms(layer.kinds, *key, number, layer.number) for layer in self.layers
            )
            if self.cost(candidate) <= self.limit:
                return candidate
        return self.fitted(candidate, *key)

    def fitted(self, candidate: Candidate, *key: object) -> Candidate:
        """The candidate with smaller forms, one after the other in a random order, until it is
        within the limit."""
        places = [(number, name) for number in range(len(candidate)) for name in SUPPORTS]
        source = generator("glora fitted", *key)
        order = torch.randperm(len(places), generator=source).tolist()
        forms = [dict(own) for own in candidate]
        while self.cost(tuple(forms)) > self.limit:
            before = self.cost(tuple(forms))
            for number, name in [places[i] for i in order]:
                smaller = options({name: forms[number][name]})[name][1:2]
                if smaller and self.cost(tuple(forms)) > self.limit:
                    forms[number][name] = smaller[0]
            if self.cost(tuple(forms)) == before:
                break
        return tuple(forms)

    def mutated(self, parent: Candidate, probability: float, *key: object) -> Candidate:
        source = generator("glora mutated", *key)
        child = []
        for layer, own in zip(self.layers, parent, strict=True):
            fresh = drawn_forms(layer.kinds, "mutated", *key, layer.number)
            chances = torch.rand(len(SUPPORTS), generator=source).tolist()
            changed = [name for name, u in zip(SUPPORTS, chances, strict=True) if u < probability]
            child.append(own | {name: fresh[name] for name in changed})
        return self.fitted(tuple(child), *key)

    def crossed(self, one: Candidate, other: Candidate, *key: object) -> Candidate:
        source = generator("glora crossed", *key)
        first = (torch.rand(len(one), generator=source) < 0.5).tolist()
        child = [a if take else b for a, b, take in zip(one, other, first, strict=True)]
        return self.fitted(tuple(child), *key)


class Judge:
    """Validation accuracy of candidates, the mean over tasks; each is evaluated once, and kept in
    a file."""

    def __init__(self, reopened: Reopened, layers: Sequence[Shared], path: Path):
        if "val" not in reopened.data.parts:
            problem = "the supernet's run has no validation part"
            raise UserError("data.val_fraction=0", problem, "give it one: data.val_fraction=0.1")
        self.reopened = reopened
        self.layers = layers
        self.path = path
        self.known: dict[str, float] = {}
        if path.is_file():
            self.known = json.loads(path.read_text(encoding="utf-8"))

    def __call__(self, candidate: Candidate) -> float:
        name = code(candidate)
        if name not in self.known:
            self.known[name] = self.accuracy(candidate)
        return self.known[name]

    def save(self) -> None:
        write_json(self.path, self.known)

    @torch.no_grad()
    def accuracy(self, candidate: Candidate) -> float:
        data, recipe = self.reopened.data, self.reopened.recipe
        draw = self.layers[0].draw
        draw.chosen = candidate
        part = data.parts["val"]
        right: dict[str, list[Tensor]] = {}
        for rows in torch.arange(len(part)).split(BLOCK):
            batch = data.transfer_batch_to_device(part.fetch(rows), recipe.device, 0)
            logits = recipe.predict_logits(data.make_view(batch, "raw"), index=batch["index"])
            for task, target in batch["targets"].items():
                known = target >= 0
                right.setdefault(task, []).append((logits[task].argmax(1) == target)[known])
        draw.chosen = None
        return sum(float(torch.cat(parts).double().mean()) for parts in right.values()) / len(right)


def code(candidate: Candidate) -> str:
    """A candidate as text: the first letters of its forms, layer by layer."""
    return " ".join("".join(forms[name][0] for name in SUPPORTS) for forms in candidate)


def evolve(search: Search, space: Space, judge: Judge, seed: int) -> Candidate:
    """The best of all candidates: the highest accuracy, then the fewest parameters."""
    candidates: dict[str, Candidate] = {}
    key = ("search", seed)
    fresh = [space.random(*key, number) for number in range(search.population)]
    for generation in range(search.generations + 1):
        fresh = [candidate for candidate in fresh if 0 < space.cost(candidate) <= space.limit]
        candidates |= {code(candidate): candidate for candidate in fresh}
        for candidate in fresh:
            judge(candidate)
        judge.save()
        ranked = sorted(candidates.values(), key=lambda c: (-judge(c), space.cost(c), code(c)))
        if not ranked:
            problem = f"no forms of these layers have as few as {space.limit}"
            raise UserError("program.parameters", problem, "raise it")
        parents = ranked[: search.parents]
        fresh = children(search, space, parents, (*key, generation))
    return ranked[0]


def children(
    search: Search, space: Space, parents: Sequence[Candidate], key: tuple[object, ...]
) -> list[Candidate]:
    source = generator("glora parents", *key)
    made = []
    for number in range(search.population):
        one, other = torch.randint(len(parents), (2,), generator=source).tolist()
        if number % 2:
            made.append(space.crossed(parents[one], parents[other], *key, number))
        else:
            made.append(space.mutated(parents[one], search.mutation, *key, number))
    return made
