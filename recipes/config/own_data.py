"""A recipe cuts the sets that demonstrate it, to few labels or to a long tail, and no set of the
user's: there the cuts are those of the data's own file and of the command."""

from collections.abc import Callable, Sequence

from omegaconf import DictConfig

from recipes.config.groups import CONFIGS, options
from recipes.config.keys import key_of

CUTS = ("labels_per_class", "imbalance_factor", "label_noise")
# settings that say which labels are kept: of the three a command gives one
LABELS = ("labels_per_class", "labels", "labeled")
# of our data files, those that read what a user has
OF_A_USER = ("hub_images", "hub_texts", "image_folder", "image_table", "own_images", "text_file")
# and those that are published as a long tail or with noisy labels: another cut is another set
CUT_ALREADY = ("cifar10n", "imagenet_lt", "inaturalist18", "places_lt")
WITHOUT_CUTS = "recipe=supervised"


def keep_own_data(
    config: DictConfig, overrides: Sequence[str], compose: Callable[[Sequence[str]], DictConfig]
) -> list[str]:
    """Take the cuts of the recipe back in place, where the data are the user's; returns a line that
    says so. overrides: of the command. compose: a command to a config."""
    data, chosen = config.get("data"), config.get("chosen") or {}
    name = str(chosen.get("data"))
    if not isinstance(data, DictConfig) or is_demonstration(name):
        return []
    said = {key_of(text) for text in overrides}
    cut = [key for key in CUTS if data.get(key) and f"data.{key}" not in said]
    if not cut:
        return []
    # the data's own file may cut too
    others = [text for text in overrides if key_of(text).startswith(("data", "hydra.searchpath"))]
    own = compose([*others, WITHOUT_CUTS]).data
    taken = [f"data.{key}={data[key]}" for key in cut if own.get(key) != data[key]]
    for key in cut:
        data[key] = own.get(key)
    if not taken:
        return []
    return [
        f"data={name} stays whole: {' '.join(taken)} of recipe={chosen.get('recipe')} is for "
        "the sets that demonstrate it; give it in the command to cut yours"
    ]


def one_choice_of_labels(config: DictConfig, overrides: Sequence[str]) -> None:
    """Remove in place the recipe's setting of how many labels are kept, if the command sets another
    one of `LABELS`."""
    data = config.get("data")
    said = {key_of(text) for text in overrides}
    given = [key for key in LABELS if f"data.{key}" in said]
    if not isinstance(data, DictConfig) or not given:
        return
    for key in LABELS:
        if key not in given and data.get(key) is not None:
            data[key] = None


def is_demonstration(name: str) -> bool:
    """Whether a data set is one of those that come with Roux."""
    return name in options("data", CONFIGS) and name not in (*OF_A_USER, *CUT_ALREADY)
