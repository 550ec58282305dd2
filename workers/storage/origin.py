"""Where a storage client's error comes from, when the store itself has said nothing.

    credentials_error    while credentials were obtained: SSO, credential_process, AssumeRole
    misconfigured        the client refuses its own configuration
    unusable             anywhere in the client, by a class that no network or store raises: the URI or an option is wrong

Classes do not tell: a credential_process that is missing raises FileNotFoundError, as a missing object does. The frames that
the error came through do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from workers.storage.uris import public_line

_MODULES = tuple(f"{package}.{module}" for package in ("botocore", "aiobotocore") for module in ("credentials", "tokens"))
_NETWORK = ("HTTPClientError", "ConnectionError", "ConnectTimeoutError", "EndpointConnectionError", "ReadTimeoutError",
            "ConnectionClosedError", "ProxyConnectionError", "MetadataRetrievalError")  # fmt: skip
_WEATHER = (*_NETWORK, "IncompleteReadError", "ChecksumError", "FlexibleChecksumError", "CapacityNotAvailableError",
            "AwsChunkedWrapperError")  # fmt: skip
_CLIENTS = ("fsspec", "s3fs", "botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "huggingface_hub")
_OURS = ("jobs", "workers", "tests")
_PROCESS = "_retrieve_credentials_using"  # the function of (aio)botocore that runs credential_process


def credentials_error(error: BaseException | None) -> BaseException | None:
    """This error or the one of its causes that was raised while credentials were obtained; None: it has another origin."""
    return next((cause for cause in causes(error) if any(module in _MODULES for module, _ in _places(cause))), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, at most twenty: causes can form a cycle."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def may_pass(error: BaseException) -> bool:
    """Whether waiting may help: the service that gives the credentials was not reached, or answered with a 5xx or 429."""
    response = getattr(error, "response", None)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(response, dict) else 0
    return status >= 500 or status == 429 or any(kind.__name__ in _NETWORK for kind in type(error).__mro__)


def misconfigured(error: BaseException) -> bool:
    """Whether the client refuses its own configuration: a file that it cannot parse, an option or a region that it lacks.

    botocore has a class for each; all but the few of the network are of this kind.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "botocore.exceptions"}
    return "BotoCoreError" in kinds and not kinds & set(_WEATHER)


def unusable(error: BaseException) -> bool:
    """Whether a client cannot work with the URI or the options that it was given, and says so by a class of any kind."""
    packages = [module.partition(".")[0] for module, _ in _places(error)]
    return (
        not isinstance(error, OSError)
        and packages[-1:] != []
        and packages[-1] not in _OURS
        and not {*packages}.isdisjoint(_CLIENTS)
    )


def explain_credentials(error: BaseException) -> str:
    """The client's own words and the remedy, on one line."""
    name = type(error).__name__
    words = public_line(getattr(error, "kwargs", {}).get("error_msg") or error) or name
    told = f"no AWS credentials ({words})"
    profile = os.environ.get("AWS_PROFILE")
    option = f" --profile {profile}" if profile else ""
    if "SSO" in name or name == "TokenRetrievalError":
        return f"{told}; run `aws sso login{option}`, then the same command again"
    if name.startswith("Login"):
        return f"{told}; run `aws login{option}`, then the same command again"
    if any(function == _PROCESS for _, function in _places(error)):
        return f"{told}; correct credential_process of the AWS profile in ~/.aws/config, or the program that it names"
    if str(getattr(error, "operation_name", "")).startswith("AssumeRole"):
        return f"{told}; correct role_arn of the AWS profile, the role's trust policy, or the profile it starts from"
    return f"{told}; correct the AWS profile in ~/.aws/config, or the environment's AWS_ variables"


def _places(error: BaseException) -> Iterator[tuple[str, str]]:
    """Module and function of each frame that the error came through."""
    trace = error.__traceback__
    while trace is not None:
        yield str(trace.tb_frame.f_globals.get("__name__", "")), trace.tb_frame.f_code.co_name
        trace = trace.tb_next
