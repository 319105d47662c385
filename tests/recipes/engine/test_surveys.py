"""Surveys: when they are made, what they see, once for equal ones, and never twice in a resumed
run."""

from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from foundation import distributed
from foundation.errors import UserError
from recipes.contract import Clock, Declaration, Method, Seen, Survey
from recipes.engine import surveys
from recipes.services import row_writer
from tests.support.lab import parts, trial
from tests.support.processes import on_two_ranks
from tests.support.tiny_runs import run_of


def logits_of(seen: Seen):
    return {"logits": seen.logits["label"], "features": seen.features}


def losses_of(seen: Seen):
    return {
        "loss": nn.functional.cross_entropy(
            seen.logits["label"], seen.targets["label"], reduction="none"
        )
    }


def broken(seen: Seen):
    return {"loss": torch.where(seen.index == 7, torch.nan, 0.0)}


class Surveyor(Method):
    """Declares the surveys that a test puts into `asks` under its key, and keeps their tables."""

    asks: ClassVar[dict[str, tuple[Survey, ...]]] = {}
    book: ClassVar[list] = []

    def __init__(self, name: str = "one"):
        self.name = name

    def declare(self):
        return Declaration(surveys=self.asks[self.name], views={"unlabeled": ("weak",)})

    def build(self, context):
        module = nn.Module()
        module.register_buffer("last", torch.zeros(()))
        context.method_modules[self.key] = module

    def surveyed(self, survey, table, context):
        book = (self.key, survey.name, context.trainer.global_step)
        self.book.append((*book, {name: rows.clone() for name, rows in table.items()}))
        first = next(rows for name, rows in table.items() if name != "index")
        self.module(context).last.copy_(first.float().mean())


def config_with(*asked: Survey, **changes):
    Surveyor.asks = {"one": asked, "two": asked}
    Surveyor.book.clear()
    target = f"{__name__}.Surveyor"
    methods = {"methods.one": {"_target_": target}}
    return run_of("image", **methods, **changes)


def made():
    return [entry[1:3] for entry in Surveyor.book]


def test_the_moments_of_a_run():
    config = config_with(
        Survey("start", "labeled", logits_of, Clock.at_start()),
        Survey("steps", "labeled", logits_of, Clock.every_steps(2, first=1)),
        Survey("judged", "val", logits_of, Clock.before_validation()),
        Survey("end", "val", logits_of, Clock.at_finish()),
        **{"trainer.max_steps": 6, "trainer.val_every": 3},
    )
    trial(config)
    # a survey after step 3 comes before the validation of step 3; Lightning counts the step later
    steps = [("steps", 0), ("steps", 2), ("judged", 3), ("steps", 4), ("judged", 6)]
    assert made() == [("start", 0), *steps]


def test_the_table_is_what_the_network_says_in_the_order_of_the_part():
    asked = Survey("all", "unlabeled", logits_of, Clock.at_start())
    outcome = trial(config_with(asked, **{"trainer.max_steps": 1, "data.eval_batch_size": 100}))
    table = Surveyor.book[0][3]
    recipe, data = outcome.recipe.eval(), outcome.trainer.datamodule
    recipe.load_state_dict(outcome.start)
    part = data.parts["unlabeled"]
    batch = part.fetch(torch.arange(len(part)))
    with torch.no_grad():
        output = recipe.predict_output(recipe.network.embed(data.make_view(batch, "raw")))
    assert table["index"].equal(part.index)
    torch.testing.assert_close(table["logits"], output.logits["label"])
    torch.testing.assert_close(table["features"], output.features)


def test_training_continues_as_if_there_were_no_survey():
    asked = (
        Survey("all", "unlabeled", logits_of, Clock.every_steps(1)),
        Survey("draws", "labeled", logits_of, Clock.every_steps(1), mode="dropout", draws=2),
        Survey("fisher", "labeled", losses_of, Clock.every_steps(1), gradients=True),
    )
    surveyed = trial(config_with(*asked)).state
    Surveyor.asks = {"one": ()}
    plain = trial(run_of("image", **{"methods.one": {"_target_": f"{__name__}.Surveyor"}})).state
    assert len(Surveyor.book) == 9
    same = [name for name in plain if not name.startswith("method_modules.one")]
    assert same and all(plain[name].equal(surveyed[name]) for name in same)


def test_equal_surveys_of_several_methods_are_one_pass(monkeypatch):
    asked = Survey("all", "unlabeled", logits_of, Clock.at_start())
    looks = []
    plain = surveys.Surveys.look
    monkeypatch.setattr(
        surveys.Surveys, "look", lambda self, *args: (looks.append(1), plain(self, *args))[1]
    )
    config = config_with(asked)
    trial(config)
    alone = len(looks)
    two = config_with(asked, **{"methods.two": {"_target_": f"{__name__}.Surveyor", "name": "two"}})
    trial(two)
    assert len(looks) == 2 * alone and [entry[0] for entry in Surveyor.book] == ["one", "two"]
    first, second = (entry[3] for entry in Surveyor.book)
    assert first["logits"].equal(second["logits"])


def test_a_resumed_run_repeats_no_survey(tmp_path: Path):
    asked = (
        Survey("start", "unlabeled", logits_of, Clock.at_start()),
        Survey("steps", "labeled", logits_of, Clock.every_steps(3, first=3)),
    )
    config = config_with(*asked, **{"trainer.max_steps": 8})
    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)
    whole = trial(config, [saving])
    assert made() == [("start", 0), ("steps", 2), ("steps", 5)]
    for step, rest in ((3, [("steps", 5)]), (6, [])):
        Surveyor.book.clear()
        resumed = trial(config, resume=tmp_path / f"step={step}.ckpt")
        assert made() == rest
        assert all(resumed.state[name].equal(value) for name, value in whole.state.items())


def test_dropout_is_active_and_norms_are_not():
    asked = Survey("draws", "labeled", logits_of, Clock.at_start(), mode="dropout", draws=3)
    trial(config_with(asked, **{"network.drop_rate": 0.5}))
    table = Surveyor.book[0][3]
    assert table["logits"].shape[:2] == (len(table["index"]), 3)
    assert not table["logits"][:, 0].equal(table["logits"][:, 1])
    trial(config_with(asked, **{"network.drop_rate": 0.5}))
    assert Surveyor.book[0][3]["logits"].equal(table["logits"])


@pytest.mark.parametrize("batch", [1, None])
def test_fisher_information_is_the_mean_of_squared_gradients(batch):
    asked = Survey(
        "fisher", "labeled", losses_of, Clock.at_start(), "student", gradients=True, batch=batch
    )
    outcome = trial(config_with(asked, **{"trainer.max_steps": 1}))
    table = Surveyor.book[0][3]
    recipe, data = outcome.recipe.eval(), outcome.trainer.datamodule
    recipe.load_state_dict(outcome.start)
    part = data.parts["labeled"]
    weights = dict(recipe.network.named_parameters())
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    size = batch or data.eval_batch_size
    shares = torch.arange(len(part)).tensor_split(-(-len(part) // size))
    for rows in shares:
        view = data.make_view(part.fetch(rows), "raw")
        logits = recipe.network(recipe.network.embed(view)).logits["label"]
        loss = nn.functional.cross_entropy(logits, part.targets["label"][rows])
        for name, gradient in zip(
            weights, torch.autograd.grad(loss, list(weights.values())), strict=True
        ):
            sums[name] += gradient**2
    assert table.keys() == weights.keys()
    for name, total in sums.items():
        torch.testing.assert_close(table[name], total / len(shares), rtol=1e-4, atol=1e-9)


def test_gradients_are_cut_before_they_are_squared():
    def fisher(clip):
        options = {"gradients": True, "batch": 1, "clip": clip}
        asked = Survey("fisher", "labeled", losses_of, Clock.at_start(), "student", **options)
        trial(config_with(asked, **{"trainer.max_steps": 1}))
        return Surveyor.book[0][3]

    whole, cut, wide = fisher(None), fisher(0.01), fisher(1e6)
    for name, value in whole.items():
        torch.testing.assert_close(wide[name], value)
        # the mean of squared norms
        assert float(cut[name].sum()) <= 1.0001e-4
    assert any(float(value.sum()) > 1e-3 for value in whole.values())
    long = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(surveys.clipped(long, 1.0), long / 5)
    assert torch.equal(surveys.clipped(long, 5.0), long)


def test_a_survey_may_change_the_network_for_itself():
    """What is frozen within it is not in its table, and is trained again afterwards; dropout acts
    in the mode that asks for it."""

    @contextmanager
    def heads_alone(context):
        context.network.backbone.requires_grad_(False)
        yield
        context.network.backbone.requires_grad_(True)

    options = {"gradients": True, "within": heads_alone}
    tables = []
    for mode in ("eval", "dropout"):
        asked = Survey(
            "fisher", "labeled", losses_of, Clock.at_start(), "student", mode=mode, **options
        )
        config = config_with(asked, **{"trainer.max_steps": 1, "network.drop_rate": 0.5})
        outcome = trial(config)
        tables.append(Surveyor.book[0][3])
        assert all(p.requires_grad for p in outcome.recipe.network.parameters())
    assert set(tables[0]) == {"heads.label.weight", "heads.label.bias"}
    assert not torch.equal(tables[0]["heads.label.weight"], tables[1]["heads.label.weight"])


def test_a_large_table_has_half_precision(monkeypatch):
    monkeypatch.setattr(row_writer, "HOST_BYTES", 100)
    asked = Survey("all", "labeled", logits_of, Clock.at_start())
    trial(config_with(asked, **{"trainer.max_steps": 1}))
    table = Surveyor.book[0][3]
    assert table["logits"].dtype == torch.float16 and table["index"].dtype == torch.int64


def test_a_number_that_is_not_finite_names_the_sample():
    asked = Survey("broken", "unlabeled", broken, Clock.at_start())
    message = r"methods\.one: its survey of the part 'unlabeled' finds 'loss' NaN .* 1 of \d+ .*first for sample \d+;"
    with pytest.raises(UserError, match=message):
        trial(config_with(asked))


def test_parts_that_do_not_exist():
    with pytest.raises(
        UserError, match=r"surveys the part 'tets', which no run of data=digits has"
    ):
        parts(config_with(Survey("all", "tets", logits_of, Clock.at_start())))
    asked = Survey("all", "val", logits_of, Clock.at_start())
    with pytest.raises(UserError, match=r"'val', which these data do not have; hold one out"):
        trial(config_with(asked, **{"data.val_fraction": 0.0}))


def test_a_part_with_fewer_samples_than_ranks_is_refused(monkeypatch):
    """A rank without a share has no tables to gather, and the others would wait for it."""
    monkeypatch.setattr(surveys, "world_size", lambda: 1000)
    asked = Survey("all", "labeled", logits_of, Clock.at_start())
    message = r"surveys the part 'labeled', which has \d+ samples; expected one for each of 1000"
    with pytest.raises(UserError, match=message):
        trial(config_with(asked))


def shares_of(rank: int, world: int) -> list[torch.Tensor]:
    """The whole table, sent in pieces of three sizes."""
    whole = torch.arange(14.0).view(7, 2)
    share = whole[torch.arange(7).tensor_split(world)[rank]]
    found = []
    for sent in (1, 16, 2**20):
        distributed.GATHERED = sent
        found.append(distributed.gather_shares(share, 7, torch.device("cpu")))
    return found


def test_the_shares_of_ranks_become_one_table():
    tables = [table for found in on_two_ranks(shares_of) for table in found]
    assert len(tables) == 6 and all(t.equal(torch.arange(14.0).view(7, 2)) for t in tables)
