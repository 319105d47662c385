"""Networks beside the trained one: a second that trains, a frozen copy, that of another run."""

from types import SimpleNamespace

import pytest
import torch
from torch.optim import Optimizer

from foundation.errors import UserError
from methods.averaging.ema import EMA
from methods.regularization.sam import SAM
from recipes.contract import Declaration, Method, Reference, Snapshot, Twin
from recipes.step import Input
from tests.support.harness import Setup, build, fit, noisy_view, train, values_differ

NAME = "second"


class Pair(Method):
    """Trains a second network on the labeled samples, beside the first."""

    declaration = Declaration(networks={NAME: Twin()})

    def prepare(self, step, context):
        labeled = step.inputs["labeled"]
        embedded = step.embedding("labeled", "weak", NAME)
        step.add(Input(NAME, embedded, dict(labeled.targets), network=NAME))

    def terms(self, step, context):
        for task in step.tasks:
            values = step.classify(NAME, task, "labeled")
            step.term(step.term_name(self.key, task), values, task=task)


class Voting(Pair):
    def vote(self, logits, task, context):
        return torch.stack([torch.softmax(values, 1) for values in logits]).mean(0).log()


class Waiting(Method):
    """Compares with a copy, which it renews after the second step."""

    declaration = Declaration(networks={"old": Snapshot()}, views={"unlabeled": ("weak",)})

    def __init__(self):
        self.seen = []

    def prepare(self, step, context):
        step.request("unlabeled", "weak")
        step.request("unlabeled", "weak", network="old")

    def terms(self, step, context):
        new = step.logits("unlabeled/weak", "label")
        old = step.logits("old:unlabeled/weak", "label")
        self.seen.append((new.detach(), old))
        step.term(self.key, (new - old).square().mean(1))

    def after_step(self, step, context):
        if step.progress.step == 1:
            context.refresh("old")


def state_of(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def twin_from(setup, methods=None):
    """The second network of a run that has not begun."""
    network = setup.network()
    network.load_state_dict(build(methods or {"pair": Pair()}, setup).networks[NAME].state_dict())
    return network


# -- a second network that trains ------------------------------------------------------------------
def test_a_twin_starts_from_numbers_of_seed_and_name():
    class Other(Pair):
        declaration = Declaration(networks={"third": Twin()})

    def start(method, name=NAME, seed=0):
        return state_of(build({"pair": method}, Setup(seed=seed)).networks[name])

    first = start(Pair())
    assert values_differ(first, start(Pair())) == []
    assert len(values_differ(first, start(Pair(), seed=1))) == len(first)
    assert len(values_differ(first, start(Other(), "third"))) == len(first)
    assert len(values_differ(first, state_of(Setup().network()))) == len(first)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_twin_trains_as_a_network_of_its_own_would(kind):
    settings = {"kind": kind, "norm": True, "momentum": 0.9}
    setup = Setup(**settings)
    pair = train({"pair": Pair()}, **settings)
    alone = fit(build({}, setup, twin_from(setup)), setup)
    first = train(**settings)
    second = state_of(pair.recipe.networks[NAME])
    for name, value in alone.parameters.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=0)
    assert values_differ(first.parameters, pair.parameters) == []
    assert int(second["body.1.num_batches_tracked"]) == 3


def test_a_replayed_batch_counts_once_in_the_statistics_of_a_twin():
    result = train({"pair": Pair(), "sam": SAM()}, norm=True)
    assert int(result.recipe.networks[NAME].body[1].num_batches_tracked) == 3


def test_every_player_is_clipped_by_its_own_norm():
    """A small gradient beside a large one stays as it is."""
    setup = Setup(momentum=0.0)

    def start():
        network = setup.network()
        with torch.no_grad():
            network.heads["label"].weight.mul_(1000)  # far off: a large gradient
        return network

    pair = fit(build({"pair": Pair()}, setup, start()), setup, gradient_clip_val=0.5)
    alone = fit(build({}, setup, twin_from(setup)), setup, gradient_clip_val=0.5)
    second = state_of(pair.recipe.networks[NAME])
    for name, value in alone.parameters.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=0)


def test_a_run_without_further_networks_has_nothing_of_them():
    recipe = build({}, Setup())
    assert not [name for name in recipe.state_dict() if name.startswith("networks")]
    assert recipe.networks_in_training() == [recipe.network] == recipe.all_networks()
    with pytest.raises(ValueError, match="no method declares a network 'secnd'"):
        build({"pair": Pair()}, Setup()).extra_forward(None, "secnd")


def test_an_input_for_an_unknown_network_is_an_error():
    class Wrong(Pair):
        def prepare(self, step, context):
            step.add(Input("x", step.embedding("labeled", "weak"), {}, network="thrd"))

    with pytest.raises(ValueError, match="for 'thrd', which no method declares"):
        train({"pair": Wrong()}, steps=1)


# -- one network steps before the other ------------------------------------------------------------
class StudentFirst(Pair):
    def wrap_step(self, closure, optimizer: Optimizer, context):
        loss = closure()
        before = state_of(context.network), state_of(context.networks[NAME])
        context.step_alone("student", optimizer)
        moved = values_differ(before[0], state_of(context.network))
        assert len(moved) == len(before[0])
        assert values_differ(before[1], state_of(context.networks[NAME])) == []
        assert all(p.grad is None for p in context.parameters_of("student"))
        return loss


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_network_that_steps_alone_ends_where_both_together_do(clip):
    setup = Setup(momentum=0.9)
    results = []
    for method in (Pair(), StudentFirst()):
        results.append(fit(build({"pair": method}, setup), setup, method, gradient_clip_val=clip))
    together, apart = results
    assert values_differ(together.parameters, apart.parameters) == []
    second = [state_of(result.recipe.networks[NAME]) for result in results]
    assert values_differ(*second) == []
    groups = [len(r.trainer.optimizers[0].param_groups[0]["params"]) for r in results]
    assert groups[0] == groups[1] == 2 * len(list(together.recipe.network.parameters()))


# -- a frozen copy ---------------------------------------------------------------------------------
def test_a_snapshot_keeps_its_weights_until_it_is_renewed():
    method = Waiting()
    result = train({"waiting": method}, steps=4, norm=True, dropout=0.5)
    recipe = result.recipe
    old = recipe.networks["old"]
    assert not any(module.training for module in old.modules())
    recipe.train()
    assert not any(module.training for module in old.modules())
    assert not any(p.requires_grad for p in old.parameters())
    # of the weights after step 2, with their running statistics
    assert int(old.body[1].num_batches_tracked) == 2
    assert not torch.equal(old.heads["label"].weight, recipe.network.heads["label"].weight)
    assert all(not seen.requires_grad for _, seen in method.seen)


def test_a_snapshot_starts_as_the_network_does():
    method = Waiting()
    recipe = build({"waiting": method}, Setup())
    assert values_differ(state_of(recipe.network), state_of(recipe.networks["old"])) == []
    with torch.no_grad():
        recipe.network.heads["label"].bias.add_(1.0)
    recipe.refresh("old")
    assert values_differ(state_of(recipe.network), state_of(recipe.networks["old"])) == []
    with pytest.raises(KeyError, match="no method declares a snapshot 'new'"):
        recipe.refresh("new")


# -- of another run --------------------------------------------------------------------------------
def with_reference(classes, calls):
    def load(run, device):
        calls.append(run)
        return SimpleNamespace(classes_by_task={"label": classes})

    class Asking(Method):
        declaration = Declaration(networks={"there": Reference("runs/a", "methods.m.run", load)})

    return build({"m": Asking()}, Setup())


def test_a_network_of_another_run_is_loaded_once_and_is_in_no_checkpoint():
    calls = []
    recipe = with_reference(["0", "1", "2"], calls)
    assert calls == []
    assert recipe.networks["there"] is recipe.networks["there"]
    assert calls == ["runs/a"]
    assert not [name for name in recipe.state_dict() if name.startswith("networks")]


def test_a_network_of_other_classes_is_refused_in_one_line():
    recipe = with_reference(["0", "1", "cat"], [])
    with pytest.raises(UserError) as refused:
        recipe.networks["there"]
    assert str(refused.value) == (
        "methods.m.run: the classes of task 'label' in 'runs/a' differ from those of the data; "
        "name a run of these classes"
    )


# -- composition -----------------------------------------------------------------------------------
def test_equal_requests_share_a_network_and_others_are_refused():
    class Copying(Method):
        declaration = Declaration(networks={NAME: Snapshot()})

    shared = Setup().composition({"a": Pair(), "b": Pair()})
    assert shared.networks == {NAME: Twin()}
    with pytest.raises(UserError, match=r"both declare the network second, but different ones"):
        Setup().composition({"a": Pair(), "b": Copying()})


@pytest.mark.parametrize("name", ["student", "teacher", "reported", "two words", "keys"])
def test_names_with_a_meaning_are_refused(name):
    class Named(Method):
        declaration = Declaration(networks={name: Twin()})

    with pytest.raises(UserError, match="choose another name"):
        Setup().composition({"a": Named()})


# -- the answers of several ------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["image", "text"])
def test_the_answer_of_two_networks_is_what_the_method_makes_of_them(kind):
    setup = Setup(kind=kind)
    recipe = build({"pair": Voting()}, setup).eval()
    stream = next(iter(setup.batches({"labeled"})))["labeled"]
    view = noisy_view(SimpleNamespace(name="labeled", size=6, **stream), "raw", draws())
    with torch.no_grad():
        answers = [net(net.embed(view)) for net in (recipe.network, recipe.networks[NAME])]
        found = recipe.predict_logits(view)["label"]
        output = recipe.predict_output(recipe.reported().embed(view))
        raw = recipe.predict_logits(view, raw=True)["label"]
    expected = sum(torch.softmax(answer.logits["label"], 1) for answer in answers) / 2
    torch.testing.assert_close(torch.softmax(found, 1), expected)
    torch.testing.assert_close(raw, answers[0].logits["label"])
    torch.testing.assert_close(output.features, torch.cat([a.features for a in answers], 1))
    assert recipe.evaluator.variants == (False, True)


def draws():
    from foundation.randomness import Randomness

    return Randomness(0, 0)


def test_two_answers_and_an_averaged_one_are_refused():
    with pytest.raises(UserError, match="reports what several networks answer"):
        Setup().composition({"pair": Voting(), "ema": EMA()})
    with pytest.raises(UserError, match="both join the answers"):
        Setup().composition({"a": Voting(), "b": Voting()})
