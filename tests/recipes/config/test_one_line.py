"""One mistake is one short line, whatever it is written to, with the nearest right names."""

import pytest

from foundation.errors import UserError
from recipes.config.resolve import resolve_command
from recipes.config.signatures import find_target

LONGEST = 160
CASES = {
    "epochs=3": "write trainer.max_epochs=…",
    "optimizer.epochs=3": "write trainer.max_epochs=…",
    "batch_size=8": "did you mean 'data.batch_size'?",
    "lr=0.1": "did you mean 'optimizer.lr'?",
    "learning_rate=0.1": "write optimizer.lr=…",
    "recipe=foo": "there is no recipe 'foo'",
    "recipe=fixmach": "did you mean 'fixmatch'?",
    "optimizer=foo": "there is no optimizer 'foo'",
    # given to three keys by interpolation
    "seed=abc": "seed: got 'abc', expected a whole number",
    "data.views.weak.shift=5": "got 5, expected a number between 0 and 0.5",
    "trainer._target_=[a,b]": "expected the dotted path",
    "trainer=[a]": "takes one choice",
    "trainer.max_steps=abc": "expected a whole number",
    "trainer._target_=nbmod.X": "there is no module 'nbmod'",
}


@pytest.mark.parametrize(("override", "words"), CASES.items())
def test_one_mistake_is_one_line(override, words):
    with pytest.raises(UserError) as caught:
        resolve_command([override, "run_dir=unused"])
    lines = [str(error) for error in caught.value.errors]
    assert len(lines) == 1 and words in lines[0]
    assert "\n" not in lines[0] and len(lines[0]) <= LONGEST


def test_a_whole_number_may_be_written_with_an_exponent():
    assert (
        resolve_command(["trainer.max_steps=1e3", "run_dir=unused"]).config.trainer.max_steps
        == 1000
    )


@pytest.mark.parametrize("path", ["../elsewhere", ".a.b", "a..b", "a b.c", "", "a.b.", "1.x"])
def test_a_target_that_is_no_dotted_path_is_refused(path):
    with pytest.raises(UserError, match="expected a dotted path"):
        find_target(path)
