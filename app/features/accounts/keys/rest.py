"""API keys over REST."""

from fastapi import APIRouter, Depends

from app.core.auth import CurrentUser, Fresh, scopes
from app.core.errors import raises
from app.core.schemas import Id
from app.features.accounts.errors import AccountGone, KeyNotFound, TooManyKeys
from app.features.accounts.keys.schemas import Key, MadeKey, NewKey, Scope
from app.features.accounts.keys.service import Keys
from app.features.accounts.notices import CHANGES

router = APIRouter(prefix="/api-keys", tags=["API keys"])


@router.post("", status_code=201, dependencies=[Depends(CHANGES)])
@raises(AccountGone, TooManyKeys)
async def make(keys: Keys, user: Fresh, new: NewKey) -> MadeKey:
    """Make an API key. `key` is in this answer and nowhere else."""
    return await keys.make(user, new)


@router.get("")
async def list_keys(keys: Keys, user: CurrentUser) -> list[Key]:
    """One's keys, the newest first."""
    return await keys.keys(user)


@router.get("/scopes")
async def list_scopes(user: CurrentUser) -> list[Scope]:
    """What a key can be made for."""
    return [Scope(name=name, description=told) for name, told in sorted(scopes.items())]


@router.delete("/{key_id}", status_code=204)
@raises(KeyNotFound)
async def revoke(keys: Keys, user: CurrentUser, key_id: Id) -> None:
    """Revoke a key: it is refused from now on, and its sockets are closed."""
    await keys.revoke(user, key_id)
