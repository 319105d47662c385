"""The networks of a recipe: the trained one, its EMA, and those that methods request by name."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foundation.errors import nearest
from foundation.randomness import own_draws
from recipes.contract.method import Method
from recipes.engine.evaluated_module import EvaluatedModule
from recipes.engine.parts import RecipeParts
from recipes.networks.checkpoint import load_deferred
from recipes.networks.embedding import add_embedding
from recipes.networks.freezing import freeze_requested
from recipes.networks.network import Network, eval_mode
from recipes.networks.requests import Reference
from recipes.services.named_networks import NamedNetworks, check_classes
from recipes.services.teacher import Teacher
from recipes.step.batchnorm import BatchNorms
from recipes.step.forward import Forwarding, forward_inputs
from recipes.step.step import Embedded, Net, Output, Step
from recipes.tasks.classification import ClassificationTask


class SeveralNetworks(EvaluatedModule):
    """networks: those of `Declaration.networks`, by name.

    Every trained network is a player: gradients are clipped for each by itself, and `step_alone`
    lets one of them step before the others.
    """

    teacher: Teacher | None
    networks: NamedNetworks
    methods_at: dict[str, list[Method]]
    tasks: Any
    seed: int
    replaying: bool

    def make_networks(self, parts: RecipeParts) -> None:
        """The EMA and the networks by name. Surgery and `build` of all methods are done."""
        composition = parts.composition
        self.norms = BatchNorms(self.network)
        self.teacher = None
        self._others: dict[str, Forwarding] = {}
        if composition.teacher:
            self.teacher = Teacher(self.network, composition.teacher, parts.total_steps)
            network = self.teacher.network
            self._others["teacher"] = Forwarding(network, BatchNorms(network), False)
        make = partial(self._start_of, parts)
        self.networks = NamedNetworks(composition.networks, self.network, make, self._load)
        for trained, kind in ((True, self.networks.trained), (False, self.networks.frozen)):
            for name, module in kind.items():
                self._others[name] = Forwarding(module, BatchNorms(module), trained)

    def operate(self, network: Network, *purpose: str) -> None:
        """Surgery, frozen weights and embedding head, from random numbers of the method and the
        purpose alone."""
        weight = next(network.parameters(), None)
        device = self.device if weight is None else weight.device
        draws = partial(own_draws, self.seed, device=device)
        for method in self.methods_at["surgery"]:
            with draws(method.key, "surgery", *purpose):
                method.surgery(network)
        load_deferred(network)
        freeze_requested(network)
        if self.composition.embedding:
            with draws("embedding", *purpose):
                add_embedding(network, self.composition.embedding)

    def _start_of(self, parts: RecipeParts, name: str) -> Network:
        """A network of the run as it is before training, with random numbers of the name."""
        if parts.make_network is None:
            raise ValueError(f"the network '{name}' needs RecipeParts.make_network")
        weight = next(self.network.parameters(), None)
        device = self.device if weight is None else weight.device
        with own_draws(self.seed, "network", name, device=device):
            network = parts.make_network()
        self.operate(network, name)
        return network

    def _load(self, request: Reference) -> Any:
        predictor = request.load(request.run, self.device)
        ours = {
            name: list(task.classes) if isinstance(task, ClassificationTask) else []
            for name, task in self.tasks.items()
        }
        check_classes(request, predictor.classes_by_task, ours)
        return predictor

    # -- forward -----------------------------------------------------------------------------------
    def forwarding(self, network: Net) -> Forwarding:
        """What forwards inputs of a network. ValueError if no method requests it."""
        if network == "student":
            return Forwarding(self.network, self.norms, True)
        if network not in self._others:
            remedy = nearest(network, ["student", *self._others])
            raise ValueError(f"no method declares a network '{network}'; {remedy}")
        return self._others[network]

    def embed(self, view: Any, network: Net) -> Embedded:
        """The continuous input of a view, for one of the networks."""
        if network == "student":
            return self.network.embed(view)
        found = self.forwarding(network)
        with torch.set_grad_enabled(found.trained and torch.is_grad_enabled()):
            return found.net.embed(view)  # type: ignore[no-any-return, operator]

    def forward_inputs(self, step: Step) -> None:
        """Forward all inputs of the step. In a replay, no running statistics are updated."""
        teacher = self.teacher.network if self.teacher else None
        with ExitStack() as stack:
            if self.replaying:
                stack.enter_context(self.norms.frozen())
                for other in self._others.values():
                    stack.enter_context(other.norms.frozen())
            step.outputs = forward_inputs(
                step.inputs, self.network, teacher, self.norms, step.representations, self._others
            )

    def extra_forward(self, embedded: Embedded, network: Net = "student") -> Output:
        """A forward in addition to that of the step, for a method that needs an output to make its
        inputs (a guess to mix with, an attack): in the network's current mode, without updates of
        running statistics, with a graph unless the caller disables gradients."""
        found = self.forwarding(network)
        with found.norms.frozen():
            return found.net(embedded)  # type: ignore[no-any-return]

    def answer_of(
        self, network: Net, view: Any, index: Tensor
    ) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Logits by task and features for a view; None for features of another run's network."""
        if network in self.networks and network not in self._others:
            return self.networks[network](view, index), None
        net: Any = self.forwarding(network).net
        output = net(net.embed(view))
        return output.logits, output.features

    @contextmanager
    def noise_free(self, network: Net = "student") -> Iterator[None]:
        """Inside it the network has no dropout, and normalizes by the statistics of the batch where
        it does so in training, without an update of the running ones."""
        found = self.forwarding(network)
        batchwise = [layer for layer in found.norms.layers if layer.training]
        with eval_mode(found.net), found.norms.frozen():
            for layer in batchwise:
                layer.training = True
            yield

    def refresh(self, name: str) -> None:
        """Give a snapshot the weights of the trained network."""
        self.networks.refresh(name, self.network)

    # -- players -----------------------------------------------------------------------------------
    def networks_in_training(self) -> list[Network]:
        """The network of the run and its twins, which have the same structure."""
        return [self.network, *self.networks.trained.values()]  # type: ignore[list-item]

    def all_networks(self) -> list[Network]:
        """Every network of this run, without those of other runs."""
        return [self.network, *(other.net for other in self._others.values())]  # type: ignore[list-item]

    def parameters_of(self, network: Net) -> list[nn.Parameter]:
        """What trains with a network: a twin's own parameters; of the student all others, those of
        the methods among them."""
        twins = self.networks.trained
        if network in twins:
            return [p for p in twins[network].parameters() if p.requires_grad]
        theirs = {id(p) for p in twins.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in theirs]

    def step_alone(self, network: Net, optimizer: Optimizer) -> None:
        """The optimizer's step for one network by its gradients, clipped as those of a step of the
        run. They are gone afterwards, so that the step of the run leaves its weights alone."""
        own = self.parameters_of(network)
        if value := self.trainer.gradient_clip_val:
            clip([own], float(value), self.trainer.gradient_clip_algorithm)
        inner: Any = getattr(optimizer, "_optimizer", optimizer)  # without Lightning's counting
        with only(inner, own):
            inner.step()
        for parameter in own:
            parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: Any = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if not gradient_clip_val or not self.networks.trained:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
            return
        players = [self.parameters_of(name) for name in ("student", *self.networks.trained)]
        clip(players, float(gradient_clip_val), gradient_clip_algorithm)


def clip(players: Sequence[list[nn.Parameter]], value: float, algorithm: Any) -> None:
    """Clip the gradients of each player by its own norm, or all by value: the size of one player's
    gradient tells nothing of how far another may go."""
    for parameters in players:
        if algorithm is not None and str(getattr(algorithm, "value", algorithm)) == "value":
            nn.utils.clip_grad_value_(parameters, value)
        else:
            nn.utils.clip_grad_norm_(parameters, value)


@contextmanager
def only(optimizer: Any, parameters: Sequence[Tensor]) -> Iterator[None]:
    """The optimizer has only these parameters. Groups are copies, so that a count of steps that a
    group keeps is the same for the parameters that step later."""
    among = set(map(id, parameters))
    whole = optimizer.param_groups
    optimizer.param_groups = [
        {**group, "params": [p for p in group["params"] if id(p) in among]} for group in whole
    ]
    try:
        yield
    finally:
        optimizer.param_groups = whole
