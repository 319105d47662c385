"""The form of a checkpoint follows what a run writes."""

from dataclasses import fields

from datamodules.facts import DatasetFacts
from datamodules.text.tokenizer import TextTokenizer
from recipes.checkpointing.form import FactsForm, TokenizerForm


def test_the_form_of_facts_follows_the_facts():
    assert set(FactsForm.model_fields) == {field.name for field in fields(DatasetFacts)}
    assert set(TokenizerForm.model_fields) == {field.name for field in fields(TextTokenizer)}
