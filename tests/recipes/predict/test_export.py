"""`python -m recipes.export`: every format says what the run said, read by the software that it is
for."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import recipes
import recipes.networks.in_timm
from recipes.export.__main__ import export, main
from tests.support.command import train
from tests.support.predict_runs import BOTH, VIT, digits, run, texts
from tests.support.settings import SHARED, TINY

PIXELS = torch.randint(
    0, 255, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def session(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_pictures_in_every_format(pictures_run, place, capsys):
    pytest.importorskip("onnxscript")
    worst = export(str(pictures_run.folder), output="out")
    assert worst.keys() == {"onnx", "safetensors", "timm"} and max(worst.values()) < 1e-4
    expected = recipes.load(pictures_run.folder).predict(PIXELS, "logits")

    graph = session(place / "out" / "onnx" / "model.onnx")
    for rows in (1, 5):
        names = ["logits_label", "logits_parity", "features"]
        found = graph.run(names, {"pictures": (PIXELS[:rows].float() / 255).numpy()})
        for values, task in zip(found, ("label", "parity"), strict=False):
            torch.testing.assert_close(
                torch.from_numpy(values), expected[task][:rows], atol=1e-4, rtol=1e-4
            )
    assert json.loads(graph.get_modelmeta().custom_metadata_map["roux.classes"])["parity"] == [
        "even",
        "odd",
    ]

    for task in ("label", "parity"):
        model = timm.create_model(
            f"local-dir:{place / 'out' / 'timm' / task}", pretrained=True
        ).eval()
        config = timm.data.resolve_model_data_config(model)
        with torch.no_grad():
            found = model((PIXELS.float() / 255 - config["mean"][0]) / config["std"][0])
        torch.testing.assert_close(found, expected[task], atol=1e-4, rtol=1e-4)

    about = json.loads((place / "out" / "safetensors" / "config.json").read_text())
    assert about["tasks"]["parity"] == ["even", "odd"] and about["reported"] == "averaged"
    assert (
        about["in_the_weights"] == ["posthoc_logit_adjustment"]
        and about["not_in_the_weights"] == []
    )
    assert main([f"run={pictures_run.folder}", "output=out", "format=timm"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_exported_weights_begin_a_run(pictures_run, place):
    export(str(pictures_run.folder), format="safetensors", output="out")
    state = load_file(place / "out" / "safetensors" / "model.safetensors")
    weights = f"network.checkpoint={place}/out/safetensors/model.safetensors"
    train(place / "again", *SHARED, *TINY["image"], BOTH, weights, "trainer.max_steps=0")
    after = json.loads((place / "again" / "metrics.json").read_text())
    before = json.loads((pictures_run.folder / "metrics.json").read_text())
    assert "heads.parity.bias" in state
    assert after["test/label/accuracy"] == pytest.approx(before["test/label/accuracy"])
    assert after["test/label/loss"] == pytest.approx(before["test/label/loss"], rel=1e-5)


def test_texts_for_transformers(texts_run, place, capsys):
    """Pooling over the first token has a classification model; the tokenizer gives the run's own
    ids."""
    worst = export(str(texts_run.folder), format="huggingface", output="out")
    assert worst["huggingface"] < 1e-4 and "lora: merged" in capsys.readouterr().out
    folder, inputs = (
        place / "out" / "huggingface",
        [*texts_run.inputs, "unheard words", "red " * 40],
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    given = tokenizer(inputs, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    predictor = recipes.load(texts_run.folder)
    torch.testing.assert_close(found, predictor.predict(inputs, "logits"), atol=1e-4, rtol=1e-4)
    assert list(model.config.id2label.values()) == predictor.classes


def test_texts_as_a_graph(texts_run, place):
    pytest.importorskip("onnxscript")
    worst = export(str(texts_run.folder), format="onnx", output="out")
    assert worst["onnx"] < 1e-4
    model, graph = recipes.load(texts_run.folder), session(place / "out" / "onnx" / "model.onnx")
    for inputs in (texts_run.inputs[:1], texts_run.inputs):
        view = model.reader.view(inputs, torch.device("cpu"))
        (found,) = graph.run(["logits"], {name: view[name].numpy() for name in ("ids", "mask")})
        torch.testing.assert_close(
            torch.from_numpy(found), model.predict(inputs, "logits"), atol=1e-4, rtol=1e-4
        )


def test_mean_pooling_leaves_the_heads_beside_the_encoder(place, write_texts):
    texts(place / "run", write_texts, "data.views.weak.word_dropout=0")
    export(str(place / "run"), format="huggingface", output="out")
    folder = place / "out" / "huggingface"
    head, encoder = (
        load_file(folder / "heads.safetensors"),
        AutoModel.from_pretrained(folder).eval(),
    )
    given = AutoTokenizer.from_pretrained(folder)(["a red thing"], return_tensors="pt")
    with torch.no_grad():
        states = encoder(
            given["input_ids"], attention_mask=given["attention_mask"]
        ).last_hidden_state
        found = states.mean(1) @ head["label.weight"].T + head["label.bias"]
    torch.testing.assert_close(
        found, recipes.load("run").predict(["a red thing"], "logits"), atol=1e-4, rtol=1e-4
    )


@pytest.fixture
def write_texts(place):
    from tests.support.command import write_csv

    return write_csv(place / "texts.csv", ["red", "blue", "green"] * 20)


def test_what_a_format_cannot_hold_is_refused_or_said(place, capsys):
    digits(place / "run", "adversarial=smoothing")
    assert main(["run=run", "format=timm"]) == 2
    assert (
        "smoothing changes the input at prediction: timm cannot represent this; use format=onnx"
        in (capsys.readouterr().err)
    )
    assert (
        main(["run=run", "format=huggingface"]) == 2
        and "for image networks use format=timm" in capsys.readouterr().err
    )
    assert list((place / "run" / "export").iterdir()) == []
    assert main(["run=run", "format=safetensors"]) == 0
    assert "holds the weights alone: smoothing changes the input" in capsys.readouterr().err
    assert main(["run=run", "fromat=onnx", "format=onx"]) == 2
    assert "format: got 'onx', expected one of: all, safetensors" in (
        said := capsys.readouterr().err
    )
    assert "fromat: there is no such key; did you mean 'format'?" in said


def test_a_changed_architecture_is_no_model_of_timm(place, capsys):
    digits(place / "run", BOTH, "multi_task=cross_stitch")
    assert main(["run=run", "format=timm"]) == 2
    assert "methods of this run changed the architecture (ByTask)" in capsys.readouterr().err


GRAPHS = {
    "median": ("adversarial=smoothing",),
    "tau_norm": ("long_tail=tau_norm", "averaging=ema"),
    "randomization": ("adversarial=randomization", "methods.randomization.passes=2"),
    "proxy_anchor": (
        "metric_learning=proxy_anchor",
        "supervised_weight=0",
        "evaluate/retrieval=default",
    ),
    "mtan": (BOTH, "multi_task=mtan"),
    "cross_stitch": (BOTH, "multi_task=cross_stitch"),
    "vit_prefix": (*VIT, "peft=prefix_tuning"),
    "vit_vpt": (*VIT, "peft=vpt"),
    "adapter": ("peft=adapter",),
    "prefix_tuning": ("peft=prefix_tuning",),
    "prompt_tuning": ("peft=prompt_tuning",),
    "vpt": ("peft=vpt",),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", GRAPHS)
def test_what_methods_do_is_part_of_the_graph(place, write_texts, case):
    """`export` itself holds the graph against the run, for batches and lengths of several sizes."""
    pytest.importorskip("onnxscript")
    arguments = GRAPHS[case]
    if case in ("adapter", "prefix_tuning", "prompt_tuning", "vpt"):
        texts(place / "run", write_texts, *arguments)
    else:
        (run if arguments[: len(VIT)] == VIT else digits)(place / "run", *arguments)
    assert export("run", format="onnx")["onnx"] < 1e-4
