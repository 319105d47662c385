"""What a person can say of a method is what its constructor takes, and its file says what it
does."""

import inspect
import re

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from recipes.config.docstrings import settings
from recipes.config.groups import CONFIGS, description, families
from recipes.config.resolve import resolve_command
from recipes.contract import Method
from tests.support.settings import CANONICAL, EXACT, NETWORK
from tests.support.tiny_runs import KINDS, METHODS, command_of, declared, joined


def target(key: str) -> type:
    return get_class(METHODS[key].node()["_target_"])


def test_methods_are_found():
    assert {"fixmatch", "ema", "sam", "mixup"} <= METHODS.keys()


def test_every_file_of_a_family_is_its_own_method():
    """Two families with a method of one name would overwrite each other under `methods`."""
    files = [
        path
        for family in families()
        for path in (CONFIGS / family).glob("*.yaml")
        if path.stem != "none"
    ]
    assert sorted(path.stem for path in files) == sorted(METHODS)


@pytest.mark.parametrize("key", METHODS)
def test_keys_and_defaults_are_those_of_the_constructor(key):
    given = {name: value for name, value in METHODS[key].node().items() if name != "_target_"}
    arguments = inspect.signature(target(key)).parameters
    assert given == {name: argument.default for name, argument in arguments.items()}
    assert list(given) == list(arguments)


@pytest.mark.parametrize("key", METHODS)
def test_arguments_are_annotated_so_that_values_can_be_checked(key):
    arguments = inspect.signature(target(key)).parameters.values()
    assert [a.name for a in arguments if a.annotation is inspect.Parameter.empty] == []


@pytest.mark.parametrize("key", METHODS)
def test_the_file_is_packaged_under_its_name_and_describes_itself(key):
    first, second, *_ = METHODS[key].path.read_text(encoding="utf-8").splitlines()
    assert first == f"# @package methods.{key}"
    assert second == f"# {description(METHODS[key].path)}"
    assert 20 <= len(description(METHODS[key].path)) <= 110


@pytest.mark.parametrize("key", METHODS)
def test_the_docstrings_name_a_paper_and_give_a_formula_and_each_argument(key):
    kind = target(key)
    assert issubclass(kind, Method)
    source = inspect.getmodule(kind).__doc__ or ""
    assert re.search(r"\b(19|20)\d\d\b", source), (
        "the module's docstring names no publication with its year"
    )
    text = inspect.getdoc(kind) or ""
    assert re.search(r"[=←Σ‖·]|argmax|log ", text), "the class's docstring holds no formula"
    assert list(settings(kind)) == list(inspect.signature(kind).parameters)


@pytest.mark.parametrize("family", families())
def test_a_family_has_a_none(family):
    node = OmegaConf.load(CONFIGS / family / "none.yaml")
    assert OmegaConf.to_container(node) == {}
    assert "# @package methods\n" in (CONFIGS / family / "none.yaml").read_text()


def test_the_table_of_settings_names_methods_and_arguments_that_exist():
    for key, changes in [*CANONICAL.items(), *EXACT.items()]:
        assert changes.keys() <= METHODS[key].node().keys()
    assert NETWORK.keys() <= METHODS.keys()


def twelve_each(kind: str) -> list[tuple[str, ...]]:
    """The methods that are tried on this kind of data first, twelve to a command."""
    keys = [key for key in METHODS if declared(key).modalities[0] == kind]
    return [tuple(keys[i : i + 12]) for i in range(0, len(keys), 12)]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("image", ("fixmatch",)),
        *((kind, keys) for kind in KINDS for keys in twelve_each(kind)),
    ],
    ids=lambda part: part if isinstance(part, str) else "+".join(part),
)
def test_joined_configs_are_what_hydra_composes(kind, keys):
    """The trials join configs of single methods, which saves them most of their time."""
    composed = resolve_command(command_of(kind, *keys)).config
    assert OmegaConf.to_container(composed) == OmegaConf.to_container(joined(kind, *keys))


def test_methods_of_one_family_keep_the_order_of_the_command():
    composed = resolve_command(command_of("image", "mean_teacher", "fixmatch")).config
    assert list(composed.methods) == ["mean_teacher", "fixmatch"]
    assert OmegaConf.to_container(composed) == OmegaConf.to_container(
        joined("image", "mean_teacher", "fixmatch")
    )
