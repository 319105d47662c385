"""Stages on text, and stages after methods that change the network: the next one begins with the
same function, or is refused before the first one runs."""

import json

import pytest

from foundation.errors import ConfigErrors, UserError
from recipes.config.resolve import resolve_command
from recipes.runs.run import check
from recipes.runs.stages import plan_stages
from recipes.setup.spec import spec_of
from tests.support.command import roux, train, write_csv

SMALL = ("+network.options.hidden_size=16", "+network.options.intermediate_size=16")
VIT = (
    "recipe=supervised",
    "network.name=vit_tiny_patch16_224",
    *(f"+network.options.{key}=2" for key in ("depth", "num_heads")),
    "+network.options.embed_dim=16",
    "+network.options.patch_size=4",
    "run_dir=never",
)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Three stages on a text set, whose tokenizer is smaller than the largest allowed: LoRA, what
    it has become without it, and the same with LoRA once more. The last two only evaluate."""
    home = tmp_path_factory.mktemp("stages")
    table = write_csv(home / "texts.csv", ["red", "blue", "green"] * 20)
    stages = 'stages={a: ["peft=lora"], b: [], c: ["peft=lora"]}'
    train(
        home / "run",
        "recipe=supervised",
        "data=text_file",
        f"data.source.train_file={table}",
        *SMALL,
        "trainer.max_steps=4",
        "trainer.val_every=4",
        "optimizer.lr=0.03",
        "stages.b.trainer.max_steps=0",
        "stages.c.trainer.max_steps=0",
        "stages.c.network.checkpoint='{a}'",
        stages,
    )
    return home / "run"


def test_a_stage_without_lora_computes_what_the_one_with_it_did(words):
    done = json.loads((words / "stages.json").read_text())
    losses = [done[stage]["test/loss"] for stage in ("a", "b", "c")]
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)
    assert (words / "a" / "checkpoints" / "for_b.safetensors").is_file()
    assert not (words / "a" / "checkpoints" / "for_c.safetensors").exists()


def test_a_file_with_deltas_needs_their_method(words):
    path = words / "a" / "checkpoints" / "last.ckpt"
    command = ("recipe=supervised", "data=text_file", "data.source.train_file=unused.csv", *SMALL)
    plain = resolve_command([*command, f"network.checkpoint={path}", "run_dir=never"]).config
    with pytest.raises(UserError, match=r"network\.checkpoint=\S+ has modules that .* lora added"):
        check(plain)
    check(
        resolve_command(
            [*command, f"network.checkpoint={path}", "peft=lora", "run_dir=never"]
        ).config
    )


def test_what_cannot_be_merged_is_refused_in_the_plan():
    stages = 'stages={a: ["peft=adapter"], b: []}'
    spec = spec_of(resolve_command([*VIT, stages]).config)
    line = r"stages\.b: peft=adapter: of the stage a .* keep adapter in this stage too"
    with pytest.raises(ConfigErrors, match=line):
        plan_stages(spec)
    kept = 'stages={a: ["peft=adapter"], b: ["peft=adapter"]}'
    assert plan_stages(spec_of(resolve_command([*VIT, kept]).config)).merged == {}


def test_what_can_be_merged_is():
    stages = 'stages={a: ["peft=[dora,bitfit]"], b: ["peft=bitfit"]}'
    plans = plan_stages(spec_of(resolve_command([*VIT, stages]).config))
    assert plans.merged == {"b": ["dora"]}


def test_a_plan_says_nothing_of_heads(words, caplog):
    path = words / "b" / "checkpoints" / "last.ckpt"
    roux(
        "recipe=supervised",
        "data=text_file",
        "data.source.train_file=unused.csv",
        *SMALL,
        f"network.checkpoint={path}",
        "dry_run=true",
    )
    assert "fit no task" not in caplog.text
