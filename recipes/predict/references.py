"""Networks of other runs, for methods: `Declaration(networks={NAME: reference(run, key)})`."""

from typing import Any

import torch

from foundation.errors import UserError
from recipes.networks.requests import Reference


def reference(run: str, key: str) -> Reference:
    """The reported network of a run, frozen. key: the setting that names the run, for messages."""

    def frozen(path: str, device: Any) -> Any:
        # not at the top: it takes longer to import than most methods
        from recipes.predict.loading import load

        try:
            predictor = load(path, device=torch.device(device))
        except UserError as error:
            raise error.about(key) from error
        return predictor.requires_grad_(False)

    return Reference(run, key, frozen)
