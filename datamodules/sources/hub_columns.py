"""The columns of a set of Hugging Face `datasets`, found by their types, and what they hold.

Types are recognized by the names of their classes, so that a set that is already open does not need
the package.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from datamodules.sources.tables import label_of, shown, text_of
from datamodules.sources.text import Labels
from foundation.errors import UserError, first_line, nearest

STRINGS = ("string", "large_string", "string_view")
TEXTS = ("text", "sentence", "content")  # usual names, where several columns have the type
LABELS = ("label", "labels", "target", "class", "category")


def kind_of(feature: Any) -> str:
    """`Image`, `ClassLabel`, `string`, `int64` …"""
    return str(feature.dtype) if is_value(feature) else type(feature).__name__


def is_value(feature: Any) -> bool:
    return type(feature).__name__ == "Value"


def chosen(
    features: Mapping[str, Any],
    wanted: str | None,
    fits: Callable[[Any], bool],
    usual: Sequence[str],
    key: str,
    what: str,
) -> str:
    """The column that a setting names, or the only one of a type. Raises UserError."""
    if wanted is not None:
        if wanted not in features:
            raise UserError(f"{key}={wanted}", "no such column", nearest(wanted, features))
        if not fits(features[wanted]):
            problem = f"is of type {kind_of(features[wanted])}"
            raise UserError(f"{key}={wanted}", problem, f"expected {what}")
        return wanted
    found = [name for name, feature in features.items() if fits(feature)]
    if len(found) > 1:
        found = [name for name in usual if name in found][:1] or found
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{name} ({kind_of(feature)})" for name, feature in features.items())
    problem = f"{'several columns are' if found else 'no column is'} {what}"
    raise UserError(key, f"{problem}; the columns are {listed}", f"name one with {key}=NAME")


def image_column(features: Mapping[str, Any], wanted: str | None) -> str:
    def fits(feature: Any) -> bool:
        return kind_of(feature) == "Image"

    return chosen(features, wanted, fits, ("image", "img"), "data.source.image_column", "an Image")


def text_column(features: Mapping[str, Any], wanted: str | None, labels: Collection[str]) -> str:
    """labels: columns that are none of texts, unless they are named."""
    others = features if wanted is not None else without(features, labels)

    def fits(feature: Any) -> bool:
        return kind_of(feature) in STRINGS

    return chosen(others, wanted, fits, TEXTS, "data.source.text_column", "a string")


def without(features: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: feature for name, feature in features.items() if name not in names}


def label_columns(
    features: Mapping[str, Any], wanted: str | list[str] | None, required: bool = True
) -> dict[str, str]:
    """The column of each task; a single one is the task `label`. required: raise UserError where
    none is found."""
    key = "data.source.label_column"

    def is_class(feature: Any) -> bool:
        return kind_of(feature) == "ClassLabel"

    def is_label(feature: Any) -> bool:
        return is_class(feature) or is_value(feature)

    if isinstance(wanted, list):
        if not wanted or len(set(wanted)) < len(wanted):
            raise UserError(f"{key}={wanted}", "name each column once, and at least one")
        return {name: chosen(features, name, is_label, (), key, "labels") for name in wanted}
    if wanted is not None and (required or wanted in features):
        return {"label": chosen(features, wanted, is_label, (), key, "labels")}
    named = [name for name in LABELS if name in features and is_label(features[name])]
    classes = [name for name, feature in features.items() if is_class(feature)]
    found = classes if len(classes) == 1 else named
    if found:
        return {"label": found[0]}
    if not required:
        return {}
    return {"label": chosen(features, None, is_class, LABELS, key, "a ClassLabel")}


# -- contents --------------------------------------------------------------------------------------
def cells(table: Any, column: str) -> list[Any]:
    """One column, without decoding the others. Raises UserError for a damaged file."""
    try:
        return table.select_columns([column])[:][column]
    except Exception as error:  # pyarrow reads the file only now
        problem = f"its files cannot be read ({first_line(error)})"
        raise UserError("data.source.name", problem, "save the set again") from None


def class_list(feature: Any) -> list[str] | None:
    """The names of the classes, None where the column does not know them."""
    return list(feature.names) if kind_of(feature) == "ClassLabel" else None


def labels_in(table: Any, columns: Mapping[str, str], where: str) -> Labels:
    """Labels by name and task; None for null, NaN, blank and negative ones."""
    found: Labels = {}
    for task, column in columns.items():
        if column not in table.features:
            raise UserError(where, f"no column '{column}'", nearest(column, table.features))
        names = class_list(table.features[column])
        values = cells(table, column)
        if names is None:
            found[task] = [label_at(value, where, column) for value in values]
        else:
            numbers = [-1 if value is None else value for value in values]
            if max(numbers) >= len(names):
                problem = f"column '{column}' has the class {max(numbers)}"
                raise UserError(where, problem, f"its type has {len(names)} classes")
            found[task] = [names[number] if number >= 0 else None for number in numbers]
    return found


def label_at(value: Any, where: str, column: str) -> str | None:
    whole = isinstance(value, float) and value.is_integer()
    try:
        return label_of(int(value) if whole else value)
    except UserError as error:
        raise UserError(where, f"column '{column}' is {error}", "expected labels") from None


def texts_in(table: Any, column: str) -> list[str]:
    """The texts of a column. Raises UserError for a row without one."""
    found = []
    for row, value in enumerate(cells(table, column)):
        text = text_of(value)
        if text is None:
            problem = f"text missing (column '{column}' is {shown(value)})"
            raise UserError(f"data.source: row {row}", problem, "expected one in every row")
        found.append(text)
    return found


def known(labels: Sequence[str | None]) -> list[str]:
    return [name for name in labels if name is not None]


def check_classes(labels: Labels, classes: dict[str, list[str]], split: str) -> None:
    """Raise UserError for a label that the training split does not have, and for a split without
    labels, as the test splits of contests are."""
    for task, names in classes.items():
        strange = set(known(labels[task])) - set(names)
        if strange:
            name = min(strange)
            problem = f"class '{name}' is not in the training split"
            raise UserError(f"split '{split}'", problem, nearest(name, names))
    if all(name is None for values in labels.values() for name in values):
        raise UserError(
            f"split '{split}'", "none of its samples has a label", "choose another split"
        )
