"""Administration over REST. Who is no administrator is refused by that, whatever there is."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.core.auth import Admin, Fresh, Principal
from app.core.errors import raises
from app.core.schemas import Id, Page
from app.features.accounts.administration.schemas import (
    AccountQuery,
    AdministeredAccount,
    Roles,
)
from app.features.accounts.administration.service import Administration
from app.features.accounts.errors import (
    AccountNotFound,
    LastAdministrator,
    NoSecondFactor,
    NotToOneself,
)

router = APIRouter(prefix="/accounts", tags=["administration"])


async def _fresh_admin(admin: Admin, _: Fresh) -> Principal:
    return admin


FreshAdmin = Annotated[Principal, Depends(_fresh_admin)]
"""An administrator who has proved in the last ten minutes that it is them."""


@router.get("")
async def list_accounts(
    administration: Administration, user: Admin, query: Annotated[AccountQuery, Query()]
) -> Page[AdministeredAccount]:
    """The accounts there are, the newest first."""
    return await administration.accounts(query)


@router.get("/{account_id}")
@raises(AccountNotFound)
async def read(administration: Administration, user: Admin, account_id: Id) -> AdministeredAccount:
    """One account."""
    return await administration.account(account_id)


@router.post("/{account_id}/disable")
@raises(AccountNotFound, NotToOneself, LastAdministrator)
async def disable(
    administration: Administration, user: FreshAdmin, account_id: Id
) -> AdministeredAccount:
    """Let somebody in no more: their sessions and sockets end, their API keys are revoked."""
    return await administration.disable(user, account_id)


@router.post("/{account_id}/enable")
@raises(AccountNotFound)
async def enable(
    administration: Administration, user: FreshAdmin, account_id: Id
) -> AdministeredAccount:
    """Let somebody in again, who has to log in, and to make new API keys."""
    return await administration.enable(user, account_id)


@router.put("/{account_id}/roles")
@raises(AccountNotFound, NotToOneself, LastAdministrator)
async def set_roles(
    administration: Administration, user: FreshAdmin, account_id: Id, given: Roles
) -> AdministeredAccount:
    """Give somebody these roles and no other; tokens that say more are refused from now on."""
    return await administration.set_roles(user, account_id, given.roles)


@router.delete("/{account_id}/second-factor")
@raises(AccountNotFound, NotToOneself, NoSecondFactor)
async def remove_second_factor(
    administration: Administration, user: FreshAdmin, account_id: Id
) -> AdministeredAccount:
    """Remove the second factor of somebody who has lost it; their sessions end, and they are told.

    Be sure that it is them who asks: who knows the password is let in after that.
    """
    return await administration.remove_second_factor(user, account_id)


@router.post("/{account_id}/sign-out", status_code=204)
@raises(AccountNotFound)
async def sign_out(administration: Administration, user: FreshAdmin, account_id: Id) -> None:
    """End all of somebody's sessions, with their access tokens and sockets; API keys stay."""
    await administration.sign_out(user, account_id)
