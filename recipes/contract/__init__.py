"""The interface of methods: `from recipes.contract import Context, Declaration, Method`."""

from datamodules.clock import Clock
from datamodules.streams import StreamRequest
from recipes.contract.context import Context
from recipes.contract.declaration import Declaration
from recipes.contract.method import POINTS, Closure, Method
from recipes.contract.probe import Probe
from recipes.contract.program import Outcome, Program
from recipes.contract.remark import Remark
from recipes.contract.survey import Seen, Survey, Table
from recipes.networks.requests import (
    BatchMoments,
    EmbeddingRequest,
    Horizon,
    Reference,
    Snapshot,
    TeacherRequest,
    Twin,
)

__all__ = [
    "POINTS",
    "BatchMoments",
    "Clock",
    "Closure",
    "Context",
    "Declaration",
    "EmbeddingRequest",
    "Horizon",
    "Method",
    "Outcome",
    "Probe",
    "Program",
    "Reference",
    "Remark",
    "Seen",
    "Snapshot",
    "StreamRequest",
    "Survey",
    "Table",
    "TeacherRequest",
    "Twin",
]
