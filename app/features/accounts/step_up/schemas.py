"""What a step-up takes."""

from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints

from app.core.schemas import Schema
from app.features.accounts.codes import MAX_CODE
from app.features.accounts.passwords import PASSWORD_MAX


class Proof(Schema):
    """A code from whoever has a second factor, the password from whoever has none."""

    password: Annotated[SecretStr, Field(max_length=PASSWORD_MAX)] | None = None
    code: Annotated[str, StringConstraints(min_length=1, max_length=MAX_CODE)] | None = None
