"""Views of texts, made on the device for a whole batch."""

from datamodules.views.text.cutoff import TokenCutoff
from datamodules.views.text.eda import EdaLite
from datamodules.views.text.tfidf import TfidfReplace
from datamodules.views.text.view import Chain, Raw, TextView, Weak

__all__ = ["Chain", "EdaLite", "Raw", "TextView", "TfidfReplace", "TokenCutoff", "Weak"]
