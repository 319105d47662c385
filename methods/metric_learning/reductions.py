"""By what a sum over pairs, triplets or anchors is divided: the names that the family shares.

mean_all: by the number of terms. mean_each: positive and negative pairs each by their number, and
added. mean_nonzero: by the number of terms above 0. mean_anchor: by the anchors that have a
positive and a negative. mean_batch: by the samples with a label.
"""

from typing import Literal

OfPairs = Literal["mean_nonzero", "mean_each", "mean_all", "mean_batch"]
OfAnchors = Literal["mean_anchor", "mean_nonzero", "mean_batch"]
OfTriplets = Literal["mean_all", "mean_nonzero"]
