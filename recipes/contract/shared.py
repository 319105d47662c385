"""What methods share: one EMA network, one embedding head, networks by name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from torch import nn

from foundation.errors import nearest
from recipes.contract.declaration import Declaration
from recipes.contract.environment import Environment
from recipes.networks.requests import EmbeddingRequest, NetworkRequest, TeacherRequest

RESERVED_NETWORKS = ("student", "teacher", "reported", "none")
SURVEYED = ("student", "reported", "none")  # by any method, beside its own networks


def shared_teacher(
    declarations: Mapping[str, Declaration], environment: Environment
) -> tuple[TeacherRequest | None, list[str]]:
    """The EMA network that all methods with a request share, or the reasons why they cannot."""
    requests = [(key, d.teacher) for key, d in declarations.items() if d.teacher]
    # a method that accepts any teacher takes that of another method, whatever its own settings
    strict = [entry for entry in requests if not declarations[entry[0]].accepts_any_teacher]
    requests = strict or requests[:1]
    if not requests:
        return None, []
    owner, request = requests[0]
    errors = []
    if environment.precision in ("16-true", "bf16-true"):
        remedy = environment.precision.replace("true", "mixed")
        errors.append(
            f"{environment.option(owner)} does not work in "
            f"trainer.precision={environment.precision}: an average of weights does not change "
            f"in half precision; use {remedy}"
        )
    return request, [*errors, *_differing(requests, "EMA network", environment)]


def shared_embedding(
    declarations: Mapping[str, Declaration], environment: Environment
) -> tuple[EmbeddingRequest | None, list[str]]:
    """The embedding head that all methods with a request share, or the reasons why they cannot."""
    requests = [(key, d.embedding) for key, d in declarations.items() if d.embedding]
    if not requests:
        return None, []
    return requests[0][1], _differing(requests, "embedding", environment)


def shared_networks(
    declarations: Mapping[str, Declaration], environment: Environment
) -> tuple[dict[str, NetworkRequest], list[str]]:
    """The networks of all methods by name, or the reasons why two methods cannot share one."""
    owners: dict[str, str] = {}
    requests: dict[str, NetworkRequest] = {}
    errors = []
    for key, declaration in declarations.items():
        option = environment.option(key)
        for name, request in declaration.networks.items():
            if name in RESERVED_NETWORKS or not name.isidentifier() or hasattr(nn.ModuleDict, name):
                errors.append(f"{option} declares networks={name!r}: choose another name")
            if requests.setdefault(name, request) != request:
                other = environment.option(owners[name])
                errors.append(
                    f"{other} and {option} both declare the network {name}, but different ones "
                    f"({requests[name]} against {request}): leave one out"
                )
            owners.setdefault(name, key)
        known = (*SURVEYED, *declaration.networks)
        for survey in declaration.surveys:
            if survey.network not in known:
                remedy = nearest(survey.network, known)
                errors.append(f"{option} surveys by the network {survey.network!r}: {remedy}")
    return requests, errors


def several_answers(
    declarations: Mapping[str, Declaration], voting: Sequence[str], environment: Environment
) -> list[str]:
    """Why the answers of several networks cannot be joined. voting: keys of the methods that join
    them."""
    options = [environment.option(key) for key in voting]
    errors = []
    if len(options) > 1:
        both = " and ".join(options)
        errors.append(f"{both} both join the answers of several networks: leave one out")
    for key, declaration in declarations.items():
        if voting and declaration.evaluates_teacher:
            errors.append(
                f"{options[0]} reports what several networks answer, and "
                f"{environment.option(key)} an averaged one: leave one out"
            )
    return errors


def _differing(
    requests: Sequence[tuple[str, TeacherRequest | EmbeddingRequest]],
    what: str,
    environment: Environment,
) -> list[str]:
    """One error for each request that is not equal to the first one."""
    owner, request = requests[0]
    wanted = asdict(request)
    errors = []
    for key, other_request in requests[1:]:
        other = asdict(other_request)
        differences = [
            f"{name} {value} against {other[name]}"
            for name, value in wanted.items()
            if value != other[name]
        ]
        if differences:
            errors.append(
                f"{environment.option(owner)} and {environment.option(key)} share one {what} "
                f"but want different ones ({', '.join(differences)}): "
                "make the settings equal or leave one out"
            )
    return errors
