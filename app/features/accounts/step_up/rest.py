"""Step-up over REST."""

from fastapi import APIRouter

from app.core.auth import CurrentUser
from app.core.errors import Overloaded, raises
from app.features.accounts.errors import (
    AccountGone,
    AccountLocked,
    SecondFactorRequired,
    WrongCode,
    WrongPassword,
)
from app.features.accounts.sessions.schemas import TokenPair
from app.features.accounts.step_up.schemas import Proof
from app.features.accounts.step_up.service import StepUp

router = APIRouter(tags=["sessions"])


@router.post("/auth/step-up")
@raises(AccountGone, AccountLocked, SecondFactorRequired, WrongCode, WrongPassword, Overloaded)
async def step_up(step_up: StepUp, user: CurrentUser, proof: Proof) -> TokenPair | None:
    """Prove again who one is, for what asks for that (RFC 9470); the session goes on.

    Whoever has a second factor gives a code of it, whoever has none the password. The new tokens
    take the place of those of before, whose refresh token is used up. A session in a cookie has no
    tokens, and gets null.
    """
    return await step_up.prove(user, proof)
