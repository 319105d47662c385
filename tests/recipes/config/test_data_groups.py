"""Views that a command chooses are those of their file, and are for data of their kind."""

import pytest
from omegaconf import OmegaConf

from foundation.errors import UserError
from recipes.config.resolve import resolve_command

TEXTS = ("data=text_file", "data.source.train_file=x.csv")


def resolved(*overrides):
    return resolve_command([*overrides, "run_dir=unused"])


def views(config):
    return OmegaConf.to_container(config.data.views)


@pytest.mark.parametrize("data", ["digits", "mnist", "omniglot"])
@pytest.mark.parametrize("name", ["natural224", "rand_augment224"])
def test_chosen_views_replace_those_of_the_set_as_a_whole(data, name):
    command = resolved(f"data={data}", f"data/views={name}")
    plain = resolved("data=image_folder", "data.root=x", f"data/views={name}")
    assert views(command.config) == views(plain.config)
    (line,) = command.lines
    assert f"data/views={name} replaces the views of data={data} as a whole" in line
    assert "weak.flip=False" in line and "\n" not in line


def test_settings_of_the_command_are_kept():
    keys = ("data.views.weak.scale=[0.5,1.0]", "data.input_size=96")
    config = resolved("data=digits", "data/views=natural224", *keys).config
    assert config.data.views.weak.scale == [0.5, 1.0]
    assert config.data.views.weak.size == config.data.views.raw.size == 96


def test_the_views_that_the_set_has_anyway_stay_its_own():
    assert resolved("data=digits", "data/views=small").lines == []
    chosen = views(resolved("data=digits", "data/views=small").config)
    assert chosen == views(resolved("data=digits").config)
    assert resolved("data=image_folder", "data.root=x", "data/views=natural224").lines == []


def test_a_setting_of_the_views_that_are_gone_is_unknown():
    with pytest.raises(UserError, match=r"data\.views\.weak\.padding: unknown key"):
        resolved("data=digits", "data/views=natural224", "data.views.weak.padding=zeros")


@pytest.mark.parametrize("sign", ["", "+"])
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((*TEXTS, "data/views=natural224"), "data/views=natural224: is for pictures, and data=te"),
        (("data=digits", "data/strong_text=eda_lite"), "eda_lite: is for texts, and data=digits"),
        (("recipe=text_fixmatch", "data/views=own"), "data/views=own: is for pictures"),
    ],
)
def test_views_of_the_other_kind_are_refused(command, words, sign):
    *others, last = command
    with pytest.raises(UserError) as caught:
        resolved(*others, f"{sign}{last}")
    (message,) = map(str, caught.value.errors)
    assert words in message and "leave it out" in message


def test_other_mistakes_are_told_beside_it():
    with pytest.raises(UserError) as caught:
        resolved(*TEXTS, "data/views=natural224", "optimizer.lrr=1")
    assert len(caught.value.errors) == 2
