"""The pages of methods and recipes are those of the configs, and name all of them."""

from pathlib import Path

import pytest

from benchmarks.pages.catalogue import PAGES, cell, chosen, first_sentence, reference
from recipes.config.groups import families, options
from tests.support.pages import check_fresh

DOCS = Path(__file__).parents[2] / "docs"
METHODS = [(family, name) for family in families() for name in options(family) if name != "none"]


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_fresh(name):
    command = f"python benchmarks/pages/catalogue.py {name} > docs/{name}.md, or make pages"
    check_fresh(DOCS / f"{name}.md", PAGES[name](), command)


def test_every_method_has_a_row_with_its_paper_under_its_family():
    sections = (DOCS / "methods.md").read_text(encoding="utf-8").split("\n## ")[1:]
    *families_of_methods, attacks = sections
    assert attacks.startswith("Attacks\n")
    named = [line for line in attacks.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in named] == list(options("attack"))
    assert all(len(line.rpartition(" | ")[2]) > 20 for line in named)
    rows = {
        (section.split("`")[1], line.split("`")[1]): line
        for section in families_of_methods
        for line in section.splitlines()
        if line.startswith("| `")
    }
    assert sorted(rows) == sorted(METHODS)
    for line in rows.values():
        cells = line.replace("\\|", "").split(" | ")
        assert len(cells) == 5 and len(cells[-1]) > 20, line


def test_every_recipe_has_a_row():
    lines = (DOCS / "recipes.md").read_text(encoding="utf-8").splitlines()
    assert [line.split("`")[1] for line in lines if line.startswith("| `")] == list(
        options("recipe")
    )


def test_methods_of_stages_count():
    assert list(chosen("crt")) == ["`crt`", "`class_balanced_sampling`"]
    assert list(chosen("fixmatch")) == ["`fixmatch`", "`ema`"]
    assert list(chosen("supervised")) == []


def test_a_sentence_ends_where_it_ends():
    assert first_sentence("L = CE: as in Lin et al. and others.\nIt is more.\n\nEnd.") == (
        "L = CE: as in Lin et al. and others."
    )


def test_a_reference_is_one_paper_with_a_link_in_one_cell():
    text = "X. A, |B|, ICLR 2020, arXiv 2001.07685; after C, ICML."
    assert reference(text) == (
        "X. A, \\|B\\|, ICLR 2020, [arXiv 2001.07685](https://arxiv.org/abs/2001.07685)"
    )
    assert cell("a|b") == "a\\|b"
