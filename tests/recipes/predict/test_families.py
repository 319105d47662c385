"""What every family does at prediction is still done by a run that is loaded, and by the plain
network it exports."""

import pytest
import torch

import recipes
from datamodules.sources import Digits
from datamodules.sources.text_file import TextFile
from recipes.export.folding import examples, folded, merged
from tests.support.command import write_csv
from tests.support.predict_runs import BATCH, BOTH, VIT, digits, no_data, run, texts

LORA = ("peft=lora", "methods.lora.alpha=64", "optimizer.lr=0.5")
SMOOTH = "adversarial=smoothing"

# arguments of a run, and what its weights alone cannot hold
IMAGES = {
    "plain": ((), ""),
    "ema": (("recipe=fixmatch", "methods.ema.decay=0.5"), ""),
    "mean_teacher": (("recipe=mean_teacher",), ""),
    "tau_norm": (("long_tail=tau_norm",), ""),
    "tau_norm_of_an_average": (
        ("long_tail=tau_norm", "averaging=ema", "methods.tau_norm.drop_bias=false"),
        "",
    ),
    "posthoc_logit_adjustment": (("long_tail=posthoc_logit_adjustment",), ""),
    "smoothing": ((SMOOTH,), "smoothing changes the input"),
    "smoothing_and_adjustment": (
        (SMOOTH, "long_tail=posthoc_logit_adjustment"),
        "smoothing changes the input",
    ),
    "randomization": (
        ("adversarial=randomization", "methods.randomization.passes=2"),
        "randomization changes the",
    ),
    "feature_squeezing": (
        ("adversarial=feature_squeezing", "methods.feature_squeezing.predict=squeezed"),
        "feature_squeezing changes the input",
    ),
    "proxy_anchor": (("metric_learning=proxy_anchor",), ""),
    "two_tasks": ((BOTH, "long_tail=posthoc_logit_adjustment"), ""),
    "mtan": ((BOTH, "multi_task=mtan"), ""),
    "cross_stitch": ((BOTH, "multi_task=cross_stitch"), ""),
    "hard_sharing": ((BOTH, "multi_task=hard_sharing", "methods.hard_sharing.head=mlp"), ""),
    "lora": (LORA, ""),
    "lora_of_an_average": ((*LORA, "averaging=ema", "methods.ema.decay=0.5"), ""),
    "adapter": ((*VIT, "peft=adapter"), "adapter adds modules that cannot be merged"),
    "prefix_tuning": (
        (*VIT, "peft=prefix_tuning"),
        "prefix_tuning adds modules that cannot be merged",
    ),
    "vpt": ((*VIT, "peft=vpt"), "vpt adds modules that cannot be merged"),
    "bitfit": ((*VIT, "peft=bitfit"), ""),
}
TEXTS = {
    "plain": ((), ""),
    "lora": (LORA, ""),
    "adapter": (("peft=adapter",), "adapter adds modules that cannot be merged"),
    "bitfit": (("peft=bitfit",), ""),
    "prefix_tuning": (("peft=prefix_tuning",), "prefix_tuning adds modules that cannot be merged"),
    "prompt_tuning": (("peft=prompt_tuning",), "prompt_tuning adds modules that cannot be merged"),
    "vpt": (("peft=vpt",), "vpt adds modules that cannot be merged"),
    "fixmatch_and_adjustment": (("recipe=fixmatch", "long_tail=posthoc_logit_adjustment"), ""),
}


def check(folder, said, inputs, left):
    """A loaded run says what the run said, and so does its plain network where nothing is left
    beside it."""
    with no_data():
        model = recipes.load(folder)
    found = model.predict(inputs, "logits", batch_size=BATCH)
    found = found if isinstance(found, dict) else {next(iter(model.classes_by_task)): found}
    assert found.keys() == said.logits.keys()
    for task, logits in said.logits.items():
        torch.testing.assert_close(found[task], logits, atol=1e-6, rtol=1e-6)
        assert logits.std(0).max() > 0
    if len(said.embeddings) == len(inputs):
        torch.testing.assert_close(
            model.predict(inputs, "embeddings", batch_size=BATCH),
            said.embeddings,
            atol=1e-6,
            rtol=1e-6,
        )
    view = examples(model, 3)
    with torch.no_grad():
        expected = model(view)
        merged(model)
        plain = folded(model)
        assert any(line.startswith(left) for line in plain.left) if left else plain.left == []
        if not plain.left:
            assert not plain.network.deltas
            for task, logits in plain.network(plain.network.embed(view)).logits.items():
                torch.testing.assert_close(logits, expected[task], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", IMAGES)
def test_pictures(place, case):
    arguments, left = IMAGES[case]
    make = run if arguments[: len(VIT)] == VIT else digits
    said = make(place / "run", *arguments)
    check(place / "run", said, Digits().load().test.pixels, left)


@pytest.mark.parametrize("case", TEXTS)
def test_texts(place, case):
    arguments, left = TEXTS[case]
    file = write_csv(place / "texts.csv", ["red", "blue", "green"] * 20)
    said = texts(place / "run", file, *arguments)
    inputs = TextFile(str(file)).load(None).test.texts
    file.unlink()
    check(place / "run", said, inputs, left)
