"""The interface of methods: `from recipes.contract import Context, Declaration, Method`."""

from datamodules.streams import StreamRequest
from recipes.contract.context import Context
from recipes.contract.declaration import Declaration
from recipes.contract.method import POINTS, Closure, Method
from recipes.contract.probe import Probe
from recipes.contract.program import Outcome, Program
from recipes.networks.requests import BatchMoments, EmbeddingRequest, Horizon, TeacherRequest

__all__ = [
    "POINTS",
    "BatchMoments",
    "Closure",
    "Context",
    "Declaration",
    "EmbeddingRequest",
    "Horizon",
    "Method",
    "Outcome",
    "Probe",
    "Program",
    "StreamRequest",
    "TeacherRequest",
]
