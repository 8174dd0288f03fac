"""Second factors over REST."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends

from app.core.auth import CurrentUser, Fresh, Principal, proved_within
from app.core.errors import raises
from app.features.accounts.errors import AccountGone, NoSecondFactor, SecondFactorInForce
from app.features.accounts.factors.schemas import (
    Confirmation,
    RecoveryCodes,
    SecondFactorStatus,
    SetUp,
)
from app.features.accounts.factors.service import Factors
from app.features.accounts.notices import CHANGES

router = APIRouter(prefix="/accounts/me/second-factor", tags=["second factor"])

FreshByCode = Annotated[
    Principal, Depends(proved_within(timedelta(minutes=10), second_factor=True))
]
"""Whoever asks, who has given a code of their second factor in the last ten minutes."""


@router.get("")
async def status(factors: Factors, user: CurrentUser) -> SecondFactorStatus:
    """Whether whoever asks has a second factor, and how many recovery codes are left."""
    return await factors.status(user)


@router.post("", status_code=201)
@raises(AccountGone, SecondFactorInForce)
async def set_up(factors: Factors, user: Fresh) -> SetUp:
    """Begin to set up an authenticator (TOTP, RFC 6238); asked again it is another one.

    It is not asked for before one of its codes has confirmed it.
    """
    return await factors.set_up(user)


@router.post("/confirm")
@raises(AccountGone, NoSecondFactor, SecondFactorInForce)
async def confirm(factors: Factors, user: Fresh, given: Confirmation) -> RecoveryCodes:
    """Put the authenticator in force by a code of it; all other sessions end."""
    return await factors.confirm(user, given.code)


@router.delete("", status_code=204)
@raises(AccountGone, NoSecondFactor)
async def remove(factors: Factors, user: FreshByCode) -> None:
    """Remove the second factor and its recovery codes."""
    await factors.remove(user)


@router.post("/recovery-codes", dependencies=[Depends(CHANGES)])
@raises(AccountGone, NoSecondFactor)
async def renew_recovery_codes(factors: Factors, user: FreshByCode) -> RecoveryCodes:
    """New recovery codes; those of before are good no more."""
    return await factors.renew_recovery_codes(user)
