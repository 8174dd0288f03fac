"""SIGN_IN_PROVIDERS: the OpenID providers that people may log in with, beside a password."""

import json
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SecretStr,
    StringConstraints,
)
from pydantic_settings import NoDecode

NAME_PATTERN = r"^[a-z0-9-]{1,32}$"


def plain_address(address: str) -> bool:
    """Whether it is http:// or https://, with a host, and without user, query and fragment."""
    parts = urlsplit(address)
    plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return parts.scheme in ("http", "https") and bool(parts.hostname) and address == plain


def _issuer(issuer: str) -> str:
    if not plain_address(issuer) or not issuer.isprintable() or " " in issuer:
        raise ValueError("it is not https://host or https://host/path")
    return issuer


def _with_openid(scope: str) -> str:
    if "openid" not in scope.split():
        raise ValueError("it has to name openid")
    return scope


class SignInProvider(BaseModel):
    """One provider, and what this service is there."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    issuer: Annotated[str, StringConstraints(max_length=255), AfterValidator(_issuer)]
    client_id: Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,255}$")]
    client_secret: SecretStr = SecretStr("")  # empty: a public client
    label: Annotated[
        str, StringConstraints(min_length=1, max_length=40, pattern=r"^[^\x00-\x1f]+$")
    ]
    scope: Annotated[
        str,
        StringConstraints(max_length=255, pattern=r"^[\x21-\x7e]+( [\x21-\x7e]+)*$"),
        AfterValidator(_with_openid),
    ] = "openid email profile"


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):  # raised out here: the error before would quote a secret
        raise ValueError('it is not a JSON object such as {"google": {"issuer": "https://..."}}')
    return read


SignInProviders = Annotated[
    dict[Annotated[str, StringConstraints(pattern=NAME_PATTERN)], SignInProvider],
    NoDecode,  # what is not JSON is explained like whatever else is wrong
    BeforeValidator(_read),
]
"""Providers by their name, which is in addresses."""
