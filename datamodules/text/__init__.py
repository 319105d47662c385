"""From text to subword ids: tokenizers, and the codec that keeps whole data sets as words."""

from datamodules.text.codec import Codec, Pieces
from datamodules.text.prepare import Tokenize
from datamodules.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer

__all__ = ["Codec", "Pieces", "TextTokenizer", "Tokenize", "load_tokenizer", "train_tokenizer"]
