"""Opening a set of Hugging Face `datasets`: a folder, or a name of the hub."""

from pathlib import Path
from typing import Any

from datamodules.names import expanded, printable
from foundation.errors import UserError, first_line, nearest
from foundation.hub import one_try

SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes
KEY = "data.source.name"


def open_set(name: str, config: str | None, root: str | Path | None) -> dict[str, Any]:
    """The splits by name. Raises UserError, one line."""
    folder = set_folder(name, root)
    shown = f"{KEY}={printable(name)}"
    library = datasets_library()
    try:
        if folder is not None and any((folder / file).is_file() for file in SAVED):
            found = library.load_from_disk(str(folder))
        else:
            found = loaded(library, name if folder is None else str(folder), config)
    except Exception as error:  # no network, no such set, a damaged folder: each another exception
        reason = first_line(error)
        if folder is not None:
            problem = f"cannot be read as a data set ({reason})"
            raise UserError(shown, problem, "expected a folder of save_to_disk") from None
        problem = f"no such folder, and the Hugging Face hub does not give it ({reason})"
        raise UserError(shown, problem, "expected a folder, or a name and a network") from None
    return dict(found) if isinstance(found, dict) else {"train": found}


def loaded(library: Any, name: str, *config: str | None, **options: Any) -> Any:
    """`load_dataset` of the package, which runs no code of a set, and contacts a hub that is out of
    reach once and not for half a minute."""
    settings = library.config
    offline = settings.HF_HUB_OFFLINE  # a copy that the package made when it was imported
    with one_try(name):
        try:
            from huggingface_hub import constants

            settings.HF_HUB_OFFLINE = offline or constants.HF_HUB_OFFLINE
            return library.load_dataset(name, *config, trust_remote_code=False, **options)
        finally:
            settings.HF_HUB_OFFLINE = offline


def datasets_library() -> Any:
    """The package, silenced. Raises UserError without it."""
    try:
        import datasets
    except ImportError:
        remedy = "pip install 'roux[hub]'"
        raise UserError(KEY, "needs the package datasets", remedy) from None
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    return datasets


def set_folder(name: str, root: str | Path | None) -> Path | None:
    """The folder of a set, None for a name of the hub. Raises UserError for a folder that is not
    there, where the name cannot be one of the hub."""
    place = expanded(name) if root is None else expanded(root) / expanded(name)
    if place.is_dir():
        return place
    shown = f"{KEY}={printable(name)}"
    if place.is_file():
        problem = "is a file"
        remedy = "expected a folder; data=text_file and data=image_table read files"
        raise UserError(shown, problem, remedy)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        hint = "its folder does not exist"
        if place.parent.is_dir():
            hint = nearest(place.name, [entry.name for entry in place.parent.iterdir()])
        raise UserError(shown, "no such folder", hint)
    return None
