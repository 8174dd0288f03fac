"""What begins at a provider and is gone on with here, sealed: nothing of it is stored.

An attempt goes along with the tab that began it. Sealed for its purpose, which may name a person,
it opens for nothing and for nobody else. A proof is what the provider has said in the end: it
begins one session, perhaps after a code of the second factor.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from secrets import token_urlsafe

from pydantic import BaseModel, ConfigDict

from app.core.auth import Principal
from app.core.secrets_at_rest import NotOpened, Sealed
from app.features.accounts.errors import AttemptRefused, ProofRefused

ATTEMPT_LIFETIME = timedelta(minutes=10)
PROOF_LIFETIME = timedelta(minutes=5)
LOG_IN = "log_in"
PROOF = "provider_proof"


class Attempt(BaseModel):
    """What was begun, with the secrets that its end has to match (RFC 7636, OpenID Connect)."""

    model_config = ConfigDict(frozen=True)

    provider: str
    state: str
    nonce: str
    verifier: str
    begun_at: float


class Proof(BaseModel):
    """That somebody is a linked identity, as a provider has said at `at`.

    When they have logged in there is another matter, and told by some providers alone.
    """

    model_config = ConfigDict(frozen=True)

    identity: int
    at: datetime
    authenticated_at: datetime | None


def linking(user: Principal) -> str:
    """The purpose of linking whoever asks to an identity."""
    return f"link:{user.subject}"


def stepping_up(user: Principal) -> str:
    """The purpose of a new proof in the session of whoever asks."""
    return f"step_up:{user.subject}:{user.session}"


class Attempts:
    """Seals attempts and proofs, and opens them again as long as they are good.

    Args:
        sealed: encrypts them.
        clock: seconds since the epoch.
    """

    def __init__(self, sealed: Sealed, *, clock: Callable[[], float] = time.time) -> None:
        self._sealed = sealed
        self._clock = clock

    def begin(self, provider: str, purpose: str) -> tuple[Attempt, str]:
        """A new attempt, and it sealed."""
        attempt = Attempt(
            provider=provider,
            state=token_urlsafe(32),
            nonce=token_urlsafe(32),
            verifier=token_urlsafe(32),
            begun_at=self._clock(),
        )
        return attempt, self._seal(attempt, _context(purpose))

    def opened(self, sealed: str, purpose: str, state: str) -> Attempt:
        """The attempt that was sealed for this purpose and sent this state. Raises AttemptRefused.

        Of what is wrong with it nothing is said.
        """
        try:
            opened = self._sealed.open(sealed, _context(purpose))
        except NotOpened:
            raise AttemptRefused from None
        attempt = Attempt.model_validate_json(opened)
        over = self._clock() >= attempt.begun_at + ATTEMPT_LIFETIME.total_seconds()
        if over or not compare_digest(attempt.state.encode(), state.encode(errors="replace")):
            raise AttemptRefused
        return attempt

    def prove(self, identity: int, authenticated_at: int | None) -> str:
        """A proof of an identity that has logged in then (seconds since the epoch), sealed."""
        at = datetime.fromtimestamp(self._clock(), UTC)
        then = None
        if authenticated_at is not None:
            then = min(at, datetime.fromtimestamp(authenticated_at, UTC))
        return self._seal(Proof(identity=identity, at=at, authenticated_at=then), PROOF)

    def proof(self, sealed: str) -> Proof:
        """The proof, unless it is none or too old; whether it was used is not known here.

        Raises ProofRefused.
        """
        try:
            opened = self._sealed.open(sealed, PROOF)
        except NotOpened:
            raise ProofRefused from None
        proof = Proof.model_validate_json(opened)
        if self._clock() >= (proof.at + PROOF_LIFETIME).timestamp():
            raise ProofRefused
        return proof

    def _seal(self, what: BaseModel, context: str) -> str:
        return self._sealed.seal(what.model_dump_json().encode(), context)


def _context(purpose: str) -> str:
    return f"provider_attempt:{purpose}"
