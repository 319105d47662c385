"""Several networks that answer as one."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from recipes.networks.embedding import EMBEDDING
from recipes.networks.network import Network
from recipes.step.step import Embedded, Output

# facts of the input, equal for all members
OF_INPUT = frozenset({"vocab_size", "max_length", "mean", "std", "input_size", "pooling", "causal"})


class Committee(Network):
    """Logits of several networks, joined by `vote(logits, task)`. Features and embeddings stand
    side by side: the inner product of two embeddings is then the sum of the members'.

    Of a text every member sees its own word embeddings, and `embed` puts them side by side, too.
    `heads` and `deltas` are those of the first member.
    """

    def __init__(self, members: Sequence[Network], vote: Callable[[Sequence[Tensor], str], Tensor]):
        first = members[0]
        super().__init__(first.feature_dim * len(members), {})
        self.members = nn.ModuleList(members)
        self.kind = first.kind  # type: ignore[misc]
        self.heads = first.heads
        self.deltas = getattr(first, "deltas", self.deltas)
        self._vote = vote

    def __getattr__(self, name: str) -> Any:
        if name in OF_INPUT:
            return getattr(members_of(self)[0], name)
        return super().__getattr__(name)

    def embed(self, view: Any) -> Embedded:
        return self._beside([member.embed(view) for member in members_of(self)])

    def example(self) -> Embedded:
        return self._beside([member.example() for member in members_of(self)])

    def features(self, embedded: Embedded) -> Tensor:
        return self.forward(embedded).features

    def forward(self, embedded: Embedded) -> Output:
        outputs: list[Output] = []
        for member, part in zip(self.members, self._parts(embedded), strict=True):
            outputs.append(member(part))
        logits = {}
        for name in outputs[0].logits:
            values = [output.logits[name] for output in outputs]
            if name == EMBEDDING:
                logits[name] = torch.cat(values, dim=1)
            else:
                logits[name] = self._vote([value.float() for value in values], name)
        return Output(torch.cat([output.features for output in outputs], dim=1), logits)

    def _beside(self, seen: list[Embedded]) -> Embedded:
        """What all members see. An image is the same for all."""
        if self.kind == "image":
            return seen[0]
        return seen[0]._replace(x=torch.cat([embedded.x for embedded in seen], dim=-1))

    def _parts(self, embedded: Embedded) -> list[Embedded]:
        """The inverse of `_beside`."""
        count = len(self.members)
        if self.kind == "image":
            return [embedded] * count
        return [embedded._replace(x=x) for x in embedded.x.chunk(count, dim=-1)]


def members_of(network: Network) -> list[Network]:
    """The networks that answer: those of a committee, or the network alone."""
    if isinstance(network, Committee):
        return cast(list[Network], list(network.members))
    return [network]
