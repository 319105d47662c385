"""The race for accuracy: both learn the same labels from the same weights, and a sound record.
Nothing is timed."""

import json

import pytest
import torch

from benchmarks.peers import semilearn_peer
from benchmarks.peers.time_to_accuracy import (
    CLI,
    main,
    ours,
    percent,
    pictures_of_test,
    prepare,
    theirs,
    transforms_of,
)

TINY = ["--seconds", "0.2", "--seeds", "1"]


def test_ours_learns(tmp_path) -> None:
    outcome = ours("digits", 0, 60, tmp_path, CLI.parse_args(TINY))
    assert outcome.accuracy > 40 and outcome.steps == 60 and outcome.seconds > 0


def test_theirs_learns(tmp_path) -> None:
    if semilearn_peer.load() is None:
        pytest.skip("semilearn is not installed")
    outcome = theirs("digits", 0, 60, tmp_path, CLI.parse_args(TINY))
    assert (
        outcome.accuracy > 20 and outcome.steps == 60
    )  # weights averaged without a warm-up: half of them the first


def test_percent_counts_what_is_right(tmp_path) -> None:
    assembly = prepare("digits", 0, 1, tmp_path, CLI.parse_args(TINY))
    pixels, labels = pictures_of_test(assembly)
    network = assembly.build_network(assembly.datamodule.tasks)
    guess = network.eval()(network.embed(pixels.float() / 255)).logits["label"].argmax(1)
    assert percent(network, (pixels, labels), "cpu") == pytest.approx(
        100 * (guess == labels).float().mean().item()
    )


def test_nobody_mirrors_or_turns_digits() -> None:
    if semilearn_peer.load() is None:
        pytest.skip("semilearn is not installed")
    weak, strong = transforms_of("digits", 8)
    names = {entry[0].__name__ for entry in strong[2].augment_list}
    assert len(weak) == 1 and len(names) == 11 and not names & {"Rotate", "ShearX", "ShearY"}


@pytest.mark.slow
def test_a_record_is_written(tmp_path) -> None:
    out = tmp_path / "time_to_accuracy.json"
    assert main([*TINY, "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    assert "digits/Roux" in record["figures"] and torch.isfinite(
        torch.tensor(record["figures"]["digits/Roux"][0]["accuracy"])
    )


def test_mistakes_are_told() -> None:
    with pytest.raises(SystemExit):
        main(["--seeds", "0"])
