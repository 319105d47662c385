"""All that an author of a method reads: `from recipes.contract import Declaration, Method`."""

from recipes.contract.method import (
    BatchMoments,
    Closure,
    Declaration,
    EmbeddingRequest,
    Horizon,
    Method,
    TeacherRequest,
)

__all__ = [
    "BatchMoments",
    "Closure",
    "Declaration",
    "EmbeddingRequest",
    "Horizon",
    "Method",
    "TeacherRequest",
]
