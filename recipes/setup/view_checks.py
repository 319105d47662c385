"""Whether the views of the data fit each other, the stored pictures and the network; known before
data are read."""

from datamodules.datamodule import StreamDataModule
from datamodules.views.image.own import Own
from datamodules.views.named import view_called
from foundation.errors import UserError


def check_needed_views(datamodule: StreamDataModule) -> None:
    """Every run sees its labeled samples in the view `weak` and is evaluated on `raw`. Raises
    `UserError`."""
    for name, use in (("weak", "labeled samples are trained on"), ("raw", "evaluation sees")):
        if name not in datamodule.view_names():
            have = ", ".join(sorted(datamodule.view_names())) or "none"
            problem = f"is null, and it is what {use}"
            remedy = f"expected a view (there are: {have})"
            raise UserError(f"data.views.{name}", problem, remedy)


def check_view_sizes(datamodule: StreamDataModule) -> None:
    """The views that a run uses make pictures of one size, that of the network's input. Raises
    `UserError`."""
    info = datamodule.info
    if info.shape is None:
        return
    asked = {name for names in datamodule.asked_views.values() for name in names}
    for name in sorted(asked | {"raw"}):
        view = view_called(datamodule.views, name)
        size = getattr(view, "size", None)
        made = info.form.size if size is None else (size, size)
        if made != info.shape[1:]:
            raise wrong_size(name, made, datamodule)
        if isinstance(view, Own):
            view.try_on(info.form)


def wrong_size(name: str, made: tuple[int, int], datamodule: StreamDataModule) -> UserError:
    key = f"data.views.{name}"
    if datamodule.input_size is None:
        problem = f"makes pictures of {by(made)}, and data.input_size is not set"
        return UserError(key, problem, f"expected data.input_size={made[0]}")
    problem = f"makes pictures of {by(made)}, and data.input_size={datamodule.input_size}"
    remedy = "expected a view of that size, as those of data/views=natural224"
    return UserError(key, problem, remedy)


def by(sides: tuple[int, ...]) -> str:
    return "×".join(map(str, sides))


def enlarged(datamodule: StreamDataModule) -> str:
    """A remark on pictures that views enlarge, because fewer pixels are stored; else empty."""
    info = datamodule.info
    if info.shape is None or min(info.form.size) >= info.shape[1]:
        return ""
    stored, seen = by(info.form.size), by(info.shape[1:])
    hint = f"; data.source.size={round(info.shape[1] / 0.875)} stores more"
    kept = hint if hasattr(datamodule.source, "form") else ""
    return f"pictures are stored with {stored} pixels, and the views make {seen} of them{kept}"
