"""What is told of who asks."""

from datetime import datetime
from typing import Self

from app.core.auth import Principal
from app.core.schemas import Schema


class Me(Schema):
    """Who asks, as the credential proves it. Where `scopes` is null nothing limits it."""

    subject: str
    name: str
    roles: list[str]
    scopes: list[str] | None
    methods: list[str]
    authenticated_at: datetime | None
    expires_at: datetime
    session: str

    @classmethod
    def of(cls, user: Principal) -> Self:
        """What a principal may know of itself, in an order that does not change."""
        return cls(
            subject=user.subject,
            name=user.name,
            roles=sorted(user.roles),
            scopes=None if user.scopes is None else sorted(user.scopes),
            methods=sorted(user.methods),
            authenticated_at=user.authenticated_at,
            expires_at=user.expires_at,
            session=user.session,
        )
