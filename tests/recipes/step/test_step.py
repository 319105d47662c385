import pytest
import torch
import torch.nn.functional as F

from foundation.randomness import Randomness
from recipes.step import Embedded, Input, Progress, Step, Stream
from recipes.step.criterion import Criterion
from tests.support.harness import Setup, build, fit, noisy_view, step_with, train


class Counted:
    """A step over one stream that notes which views and embeddings are made."""

    def __init__(self, tasks: tuple[str, ...] = ("label",)):
        self.views, self.embeds = [], []
        stream = Stream("unlabeled", torch.zeros(4, 3, 8, 8), {}, torch.arange(4))
        self.step = Step(
            streams={"unlabeled": stream},
            randomness=Randomness(0, 0),
            make_view=self.make_view,
            embed=self.embed,
            criterion=Criterion(),
            progress=Progress(0, 1),
            tasks=tasks,
        )

    def make_view(self, stream, view, randomness):
        self.views.append((stream.name, view))
        return torch.zeros(stream.size, 2)

    def embed(self, view, network):
        self.embeds.append(network)
        return Embedded(view)


# -- views and requests ----------------------------------------------------------------------------
def test_a_view_and_its_embedding_are_made_once_a_step():
    counted = Counted()
    step = counted.step
    assert step.view("unlabeled", "weak") is step.view("unlabeled", "weak")
    assert step.embedding("unlabeled", "weak").x is step.embedding("unlabeled", "weak").x
    step.embedding("unlabeled", "weak", "teacher")
    step.view("unlabeled", "weak2")
    assert counted.views == [("unlabeled", "weak"), ("unlabeled", "weak2")]
    assert counted.embeds == ["student", "teacher"]


def test_equal_requests_share_one_input_and_the_stronger_wish_wins():
    step = Counted().step
    assert step.request("unlabeled", "weak", grad=False, updates_bn_stats=False) == "unlabeled/weak"
    assert (step.inputs["unlabeled/weak"].grad, step.inputs["unlabeled/weak"].updates_bn_stats) == (
        False,
        False,
    )
    assert step.request("unlabeled", "weak", grad=True, updates_bn_stats=False) == "unlabeled/weak"
    assert (step.inputs["unlabeled/weak"].grad, step.inputs["unlabeled/weak"].updates_bn_stats) == (
        True,
        False,
    )
    step.request("unlabeled", "weak", grad=False, updates_bn_stats=True)
    assert (step.inputs["unlabeled/weak"].grad, step.inputs["unlabeled/weak"].updates_bn_stats) == (
        True,
        True,
    )
    assert step.request("unlabeled", "weak", network="teacher") == "teacher:unlabeled/weak"
    assert list(step.inputs) == ["unlabeled/weak", "teacher:unlabeled/weak"]


def test_names_of_inputs_and_terms_are_taken_once():
    step = Counted().step
    step.add(Input("labeled", Embedded(torch.zeros(2, 1))))
    with pytest.raises(ValueError, match="'labeled' exists already"):
        step.add(Input("labeled", Embedded(torch.zeros(2, 1))))
    step.term("loss", torch.zeros(2))
    with pytest.raises(ValueError, match="'loss' exists already"):
        step.term("loss", torch.zeros(2))


def test_changing_an_input_keeps_its_other_fields():
    step = Counted().step
    step.add(
        Input(
            "labeled",
            Embedded(torch.zeros(2, 1)),
            {"label": torch.tensor([0, 1])},
            updates_bn_stats=False,
        )
    )
    step.change("labeled", embedded=Embedded(torch.ones(3, 1)))
    entry = step.inputs["labeled"]
    assert (
        entry.size == 3 and entry.targets["label"].tolist() == [0, 1] and not entry.updates_bn_stats
    )


def test_names_carry_the_task_where_there_are_several():
    assert Counted().step.term_name("fixmatch", "label") == "fixmatch"
    assert Counted(("a", "b")).step.term_name("fixmatch", "a") == "fixmatch/a"


def test_raw_logits_and_those_that_losses_see():
    z = torch.randn(2, 3).bfloat16()
    at = step_with(
        {"x": z}, adjust=lambda step, z, target, task, role: z + {"labeled": 1, "pseudo": 2}[role]
    )
    assert at.logits("x", "label").dtype == torch.float32
    torch.testing.assert_close(at.logits("x", "label"), z.float())
    torch.testing.assert_close(at.loss_logits("x", "label", "labeled"), z.float() + 1)
    torch.testing.assert_close(at.loss_logits("x", "label", "pseudo"), z.float() + 2)


# -- true steps ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "settings", [{"norm": True}, {"kind": "text", "momentum": 0.9}, {"accumulate": 3}]
)
def test_supervised_training_equals_a_bare_loop(settings):
    setup = Setup(steps=4, **settings)
    result, network, losses = train(steps=4, **settings), setup.network(), []
    optimizer = torch.optim.SGD(network.parameters(), lr=setup.lr, momentum=setup.momentum)
    for position, batch in enumerate(setup.batches({"labeled"})):
        view = noisy_view(Stream("labeled", **batch["labeled"]), "weak", Randomness(0, position))
        loss = F.cross_entropy(
            network(network.embed(view)).logits["label"], batch["labeled"]["targets"]["label"]
        )
        losses.append(loss.item())
        (loss / setup.accumulate).backward()
        if (position + 1) % setup.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    means = torch.tensor(losses).view(4, -1).mean(1).tolist()
    assert result.losses == pytest.approx(means, abs=1e-6)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(result.parameters[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "settings", [{"norm": True, "momentum": 0.9}, {"kind": "text", "dropout": 0.4}]
)
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(settings, tmp_path):
    setup = Setup(steps=5, **settings)
    whole = train(steps=5, **settings)
    half = Setup(steps=2, total=5, **settings)
    fit(build({}, half), half).trainer.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(123)
    resumed = fit(build({}, setup), setup, ckpt_path=tmp_path / "half.ckpt", start=2)
    assert resumed.losses == whole.losses[2:]
    for name, value in whole.parameters.items():
        assert torch.equal(resumed.parameters[name], value), name


def test_what_ran_before_does_not_matter_and_the_seed_does():
    first = train(steps=2, dropout=0.5)
    torch.manual_seed(77)
    assert train(steps=2, dropout=0.5).losses == first.losses
    assert train(steps=2, dropout=0.5, seed=1).losses != first.losses


def test_metrics_are_published_every_so_many_steps_and_at_the_end():
    each, some = train(steps=5), train(steps=5, log_every=2)
    losses = each.losses
    expected = [sum(losses[:2]) / 2, sum(losses[2:4]) / 2, losses[4]]
    assert some.losses == pytest.approx(expected, rel=1e-6)
    assert each.recipe.latest["train/loss"] == losses[-1]


def test_half_precision_stays_near_full_precision():
    full, half = train(steps=3), train(steps=3, precision="bf16-mixed")
    assert half.losses != full.losses
    assert half.losses == pytest.approx(full.losses, abs=0.02)
    assert all(value.dtype == torch.float32 for value in half.parameters.values())
