"""Names that other tools give to our settings."""

import pytest

from recipes.config.groups import CONFIGS, families
from recipes.config.keys import all_keys
from recipes.config.resolve import resolve_command
from recipes.config.usual_names import BY_NAME, USUAL, by_usual_name


@pytest.fixture(scope="module")
def keys():
    config = resolve_command(["run_dir=unused"]).config
    return [*all_keys(config), *families(CONFIGS)]


def test_every_answer_is_a_key_of_a_run(keys):
    assert USUAL.keys() <= set(keys)
    for name, key in BY_NAME.items():
        assert by_usual_name(name, keys).endswith(f"write {key}=…")


def test_a_name_stands_once_and_is_none_of_ours(keys):
    names = [name for several in USUAL.values() for name in several]
    assert len(names) == len(set(names))
    assert not set(names) & {key for key in keys if "." not in key}


def test_a_setting_that_the_run_lacks_is_not_advised():
    assert by_usual_name("warmup", ["seed"]) == "" and by_usual_name("zzz", ["seed"]) == ""
