"""Whether a batch can hold what a method learns from: pairs, several classes. Known from the
config, before data is read."""

from collections.abc import Iterator, Mapping

from datamodules.pk_order import MakePKOrder
from datamodules.samplers import ChecksBatch
from foundation.errors import UserError, raise_all
from recipes.contract.composition import Composition
from recipes.contract.declaration import Declaration
from recipes.contract.environment import Environment


def check_batch_contents(
    composition: Composition,
    environment: Environment,
    batch_size: int,
    classes: Mapping[str, int | None],
) -> None:
    """Raise `UserError`, a line for each method whose need no batch can meet.

    classes: number of classes by task, None where only the data tells it.
    """
    order = composition.orders.get("labeled")
    errors: list[UserError] = []
    for key, declaration in composition.declarations.items():
        option = environment.option(key)
        errors += too_few_samples(option, declaration, batch_size)
        errors += too_few_in_data(option, declaration, classes, environment.data)
        if isinstance(order, MakePKOrder) and batch_size >= declaration.samples_in_batch:
            errors += too_few_in_order(option, declaration, batch_size, order)
    if not errors and isinstance(order, ChecksBatch):
        errors += wrong_size(order, batch_size)
    raise_all(errors)


def wrong_size(order: ChecksBatch, batch_size: int) -> Iterator[UserError]:
    try:
        order.check_batch(batch_size)
    except UserError as error:
        yield error


def too_few_samples(option: str, declaration: Declaration, batch_size: int) -> Iterator[UserError]:
    least = declaration.samples_in_batch
    if batch_size < least:
        problem = f"{option} learns from batches of at least {least} samples"
        yield UserError(f"data.batch_size={batch_size}", problem, f"expected at least {least}")


def too_few_in_data(
    option: str, declaration: Declaration, classes: Mapping[str, int | None], data: str
) -> Iterator[UserError]:
    """No task has the classes; one that does is enough."""
    counts = list(classes.values())
    least = declaration.classes_in_batch
    known = [count for count in counts if count is not None]
    if known and len(known) == len(counts) and max(known) < least:
        problem = f"{option} compares samples of {least} classes, and no task has more than "
        problem += str(max(known))
        yield UserError(f"data={data}", problem, "choose data with more classes, or another loss")


def too_few_in_order(
    option: str, declaration: Declaration, batch_size: int, order: MakePKOrder
) -> Iterator[UserError]:
    least = declaration.classes_in_batch
    groups = batch_size // order.per_class
    if groups < least:
        setting = f"methods.{order.key}.samples_per_class={order.per_class}"
        problem = (
            f"with {setting} a batch has {groups} of the {least} classes that {option} compares"
        )
        remedy = f"expected at least data.batch_size={least * order.per_class}"
        yield UserError(f"data.batch_size={batch_size}", problem, remedy)
