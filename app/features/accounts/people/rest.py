"""People's accounts over REST.

Nobody finds out by asking who has an account: what depends on that is said in a mail alone.
"""

from fastapi import APIRouter, Depends, Response

from app.core.auth import CurrentUser, Fresh
from app.core.errors import Overloaded, raises
from app.core.mail import Mail
from app.features.accounts.errors import (
    AccountGone,
    AccountLocked,
    EmailTaken,
    LastAdministrator,
    LinkRefused,
    WrongPassword,
)
from app.features.accounts.people.schemas import (
    Account,
    Address,
    Choice,
    Confirmed,
    Deletion,
    EmailChange,
    NewAddress,
    PasswordChange,
    Rename,
    Reset,
    Token,
)
from app.features.accounts.people.service import People
from app.features.accounts.throttles import MAILS, Throttled

router = APIRouter(tags=["accounts"])


@router.post("/accounts/sign-up", status_code=202, dependencies=[Depends(MAILS)])
async def sign_up(
    people: People, throttle: Throttled, mail: Mail, new: NewAddress, response: Response
) -> Address:
    """Ask for an account: a mail says how to go on, or that there is one already."""
    await throttle.mail(new.email)
    response.headers.update(mail.shown(await people.ask_to_sign_up(new)))
    return Address(email=new.email)


@router.post("/accounts/confirm", status_code=201)
@raises(LinkRefused, EmailTaken, Overloaded)
async def confirm(people: People, choice: Choice) -> Confirmed:
    """Create the account that a mailed link is for, with a password, and begin a session."""
    return await people.confirm(choice.token.get_secret_value(), choice.password.get_secret_value())


@router.post("/accounts/password/forgot", status_code=202, dependencies=[Depends(MAILS)])
async def forgot(
    people: People, throttle: Throttled, mail: Mail, given: Address, response: Response
) -> Address:
    """Ask for another password: a mail says how to go on, or that there is no account."""
    await throttle.mail(given.email)
    response.headers.update(mail.shown(await people.forgot(given.email)))
    return given


@router.post("/accounts/password/reset")
@raises(LinkRefused, Overloaded)
async def reset(people: People, choice: Choice) -> Reset:
    """Set another password with a mailed link; all sessions end, and API keys stay."""
    token, password = choice.token.get_secret_value(), choice.password.get_secret_value()
    return Reset(api_keys=await people.reset(token, password))


@router.post("/accounts/email/confirm", status_code=204)
@raises(LinkRefused, EmailTaken)
async def confirm_email(people: People, given: Token) -> None:
    """Confirm another address with the link that was mailed there."""
    await people.confirm_email(given.token.get_secret_value())


@router.get("/accounts/me")
@raises(AccountGone)
async def me(people: People, user: CurrentUser) -> Account:
    """The account of whoever asks."""
    return await people.account(user.user_id)


@router.patch("/accounts/me")
@raises(AccountGone)
async def rename(people: People, user: CurrentUser, change: Rename) -> Account:
    """Give oneself another name; access tokens have it from the next refresh on."""
    return await people.rename(user.user_id, change.name)


@router.delete("/accounts/me", status_code=204)
@raises(AccountGone, WrongPassword, AccountLocked, LastAdministrator, Overloaded)
async def delete(people: People, user: Fresh, given: Deletion) -> None:
    """Delete one's account, with sessions, keys and all that is its own."""
    await people.delete(user, given.password.get_secret_value())


@router.post("/accounts/me/password", status_code=204)
@raises(AccountGone, WrongPassword, AccountLocked, Overloaded)
async def change_password(people: People, user: CurrentUser, change: PasswordChange) -> None:
    """Set another password; all sessions end but the one that asks."""
    current, new = change.current.get_secret_value(), change.new.get_secret_value()
    await people.change_password(user, current, new)


@router.post("/accounts/me/email", status_code=202, dependencies=[Depends(MAILS)])
@raises(AccountGone, WrongPassword, AccountLocked, Overloaded)
async def ask_to_change_email(
    people: People,
    throttle: Throttled,
    mail: Mail,
    user: Fresh,
    change: EmailChange,
    response: Response,
) -> Address:
    """Ask for another address: a mail to it says how to go on. Until then nothing changes."""
    await throttle.mail(change.email)
    password = change.password.get_secret_value()
    response.headers.update(
        mail.shown(await people.ask_to_change_email(user, change.email, password))
    )
    return Address(email=change.email)
