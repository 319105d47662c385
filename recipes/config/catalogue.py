"""All groups that a command may choose from, and what is wrong with a choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import Override

from foundation.errors import UserError, listed, nearest
from recipes.config.groups import NOT_FAMILIES, from_hydra
from recipes.config.messages import several_values
from recipes.config.renamed import CHOICES

ATTACK = "attack"  # a group without a place of its own
ANY_OPTIMIZER = "any other of timm's: optimizer=named optimizer.name=NAME"


@dataclass(frozen=True)
class Catalogue:
    """groups: each with its options, as Hydra names them (`evaluate/attack`)."""

    groups: Mapping[str, Sequence[str]]

    @property
    def methods(self) -> dict[str, str]:
        """Method -> family."""
        family_of: dict[str, str] = {}
        for group, names in self.groups.items():
            if group.split("/")[0] not in NOT_FAMILIES:
                family_of |= {name: group for name in names if name != "none"}
        return family_of

    def is_group(self, override: Override) -> bool:
        group = override.key_or_group
        return group in self.groups or group.startswith("hydra/")

    def check_choice(self, override: Override) -> None:
        """Raise `UserError` if an override chooses what its group does not offer."""
        group, line = override.key_or_group, from_hydra(override.input_line or "")
        if group.startswith("hydra/") or override.is_delete():
            return
        if group == ATTACK and override.package is None:
            remedy = f"write methods.pgd_at.{line} or evaluate.{line}"
            raise UserError(line, "an attack belongs to a method or to the evaluation", remedy)
        if override.is_sweep_override():
            raise several_values(override)
        value = override.value()
        if value is None or value == []:
            offers = listed(group, self.groups[group])
            raise UserError(line, f"choose a name for {from_hydra(group)}", offers)
        if override.is_add() and override.package is None:
            raise UserError(line, f"'{from_hydra(group)}' has a choice already", "leave out the +")
        for name in value if isinstance(value, list) else [value]:
            if str(name) not in self.groups[group]:
                raise self.no_option(group, str(name), override.package)

    def no_option(self, group: str, name: str, place: str | None = None) -> UserError:
        """The error for a name that a group does not offer. place: where it was chosen, if that is
        not the group's own."""
        family = self.methods.get(name)
        if family and not place:
            problem = f"'{name}' is of another family"
            return UserError(f"{group}={name}", problem, f"write {family}={name}")
        remedy = nearest(name, self.groups.get(group, ()))
        # of a file's list of defaults, which Hydra reads by itself
        renamed = CHOICES.get(group, {}).get(name)
        if renamed:
            remedy = f"it is called {renamed} now"
        if group == "optimizer":
            remedy = f"{remedy}; {ANY_OPTIMIZER}"
        kind = group.rpartition("/")[2]
        key = place or from_hydra(group)
        return UserError(f"{key}={name}", f"there is no {kind} '{name}'", remedy)
