"""What may be given to `predict`, and what comes out."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

import recipes
from datamodules.sources import Digits
from foundation.errors import UserError


@pytest.fixture(scope="module")
def pictures(pictures_run):
    return recipes.load(pictures_run.folder)


@pytest.fixture(scope="module")
def texts(texts_run):
    return recipes.load(texts_run.folder)


def test_every_form_of_a_picture_is_the_same_picture(pictures, place):
    pixels = Digits().load().test.pixels[:3]
    expected = pictures.predict(pixels, "logits")["label"]
    greys = pixels.numpy()[:, 0]
    for i, grey in enumerate(greys):
        Image.fromarray(grey).save(f"{i}.png")
    files = [f"{i}.png" for i in range(3)]
    forms = {
        "tensors": list(pixels),
        "floats": pixels.float() / 255,
        "arrays": list(greys),
        "a batch of grey arrays": greys,
        "arrays with a channel": greys[..., None],
        "colours": [np.repeat(grey[..., None], 3, 2) for grey in greys],
        "paths": files,
        "PIL": [Image.open(file) for file in files],
        "a mixture": [pixels[0], pixels[1].float() / 255, files[2]],
    }
    for form, given in forms.items():
        found = pictures.predict(given, "logits")["label"]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, msg=form)
        torch.testing.assert_close(
            pictures.predict(given[0], "logits")["label"], expected[0], atol=1e-5, rtol=1e-5
        )


def test_pictures_of_16_bits_and_of_halves(pictures):
    pixels = Digits().load().test.pixels[0]
    expected = pictures.predict(pixels, "logits")["label"]
    wide = Image.fromarray(pixels[0].numpy().astype(np.uint16) * 257)
    assert torch.equal(pictures.predict(wide, "logits")["label"], expected)
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        given = (pixels.double() / 255).to(kind)
        found = pictures.predict(given, "logits")["label"]
        torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)


def test_pictures_of_another_size_are_scaled_and_cut(pictures):
    wide = np.zeros((16, 40, 3), np.uint8)
    wide[:, 6:34] = 255  # the middle is 12 … 27, and bicubic looks a little further
    full = np.full((8, 8), 255, np.uint8)
    found, expected = (pictures.predict(p, "probabilities")["label"] for p in (wide, full))
    torch.testing.assert_close(found, expected)


def test_what_is_returned(pictures, texts):
    probabilities = pictures.predict(torch.rand(5, 1, 8, 8), "probabilities", batch_size=2)
    assert {task: list(p.shape) for task, p in probabilities.items()} == {
        "label": [5, 10],
        "parity": [5, 2],
    }
    torch.testing.assert_close(probabilities["parity"].sum(1), torch.ones(5))
    assert pictures.predict(torch.rand(1, 8, 8), "probabilities")["parity"].shape == (2,)
    assert pictures.predict(torch.rand(5, 1, 8, 8), "embeddings").shape == (5, 16)
    assert texts.predict("a red thing") in ("red", "blue", "green")
    assert len(texts.predict(["a red thing", "", "blue " * 200])) == 3
    assert texts.predict([], "logits").shape == (0, 3) and texts.predict(
        [], "embeddings"
    ).shape == (0, 16)
    done = []
    texts.predict(["a"] * 5, batch_size=2, progress=done.append)
    assert done == [2, 4, 5]


def test_gradients_reach_the_input(pictures):
    view = torch.rand(2, 1, 8, 8, requires_grad=True)
    pictures(view)["label"].sum().backward()
    assert view.grad.abs().sum() > 0


def test_wrong_inputs_are_one_line(pictures, texts):
    for model, given, words in (
        (pictures, 3, "got int; expected pictures: paths"),
        (pictures, ["nowhere.png"], "nowhere.png: no such file"),
        (pictures, np.zeros((8, 8)), r"an array \[8, 8\] of float64; expected uint8"),
        (
            pictures,
            torch.rand(3, 8, 8),
            r"a tensor \[3, 8, 8\] of float32; expected \[C, H, W\] as \[1, 8, 8\]",
        ),
        (pictures, torch.rand(1, 8, 8) * 255, r"float32 from .* to 2.*; expected uint8, or float"),
        (pictures, torch.full((1, 8, 8), torch.nan), "float32 from nan to nan; expected uint8"),
        (pictures, torch.zeros(1, 8, 8, dtype=torch.int32), r"a tensor \[1, 8, 8\] of int32"),
        (pictures, torch.zeros(1, 8, 8, dtype=torch.bool), r"a tensor \[1, 8, 8\] of bool"),
        (pictures, Image.new("I", (8, 8)), "inputs: pixels of 32-bit integers"),
        (pictures, Image.new("F", (8, 8), 255), "inputs: floating pixels from 255 to 255"),
        (texts, [3], "got int; expected texts"),
        (texts, ["a", "\ud800"], r"'\\ud800' is not valid Unicode"),
        (texts, [float("nan")], "got float; expected texts"),
        (texts, [None], "got NoneType; expected texts"),
        (texts, torch.zeros(2), "expected texts"),
    ):
        with pytest.raises(UserError, match=words):
            model.predict(given)
    with pytest.raises(UserError, match="returns='logit': did you mean 'logits'"):
        texts.predict("a", "logit")


# -- numbers that are none -------------------------------------------------------------------------
def test_a_picture_with_nan_is_refused(pictures):
    pixels = Digits().load().test.pixels[0].float() / 255
    pixels[0, 3, 3] = float("nan")
    with pytest.raises(UserError, match=r"^inputs: got a tensor .* to nan; expected uint8"):
        pictures.predict(pixels)


@pytest.mark.parametrize("returns", ["labels", "probabilities", "logits", "embeddings"])
def test_a_damaged_network_says_so(pictures, returns):
    damaged = copy.deepcopy(pictures)
    next(damaged.network.backbone.parameters()).data[0] = float("nan")
    with pytest.raises(
        UserError, match=r"^run: its weight '\S+' is NaN or infinite; train"
    ) as caught:
        damaged.predict(Digits().load().test.pixels[:3], returns)
    assert "\n" not in str(caught.value)


def test_an_output_without_a_number_names_its_input(pictures):
    rows = torch.zeros(3, 10)
    rows[1, 4] = float("nan")
    with pytest.raises(UserError, match=r"^inputs: .* output for input 42 is NaN"):
        pictures.check_numbers(rows, torch.tensor([40, 41, 42]))
    rows[1, 4] = -float("inf")  # a class that is ruled out
    pictures.check_numbers(rows, None)


def test_class_names_have_the_form_of_predictions(pictures, texts):
    assert set(pictures.classes) == set(pictures.predict(Digits().load().test.pixels[:2]))
    names = texts.classes
    assert isinstance(names, list) and sorted(names) == ["blue", "green", "red"]
    assert texts.predict("red") in names
    # as it was before
    assert names["label"] == names[:] and dict(names.items()) == {"label": names}
    with pytest.raises(KeyError):
        names["other"]
