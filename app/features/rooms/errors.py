"""Errors of rooms."""

from app.core.errors import AppError


class RoomNotFound(AppError):
    """There is no room of this number."""

    status = 404
    code = "rooms.not_found"
    title = "There is no such room."
    error_code = 2101


class NotAMember(AppError):
    """Only members read and write in a room; whoever leaves or is removed is one no longer."""

    status = 403
    code = "rooms.not_a_member"
    title = "You are not a member of this room."
    error_code = 2102


class RoomReadOnly(AppError):
    """The room has been archived: it can be read, and nothing be posted."""

    status = 403
    code = "rooms.read_only"
    title = "This room is read-only."
    error_code = 2103


class NotTheOwner(AppError):
    """Only the owner of a room, or an administrator, may do this."""

    status = 403
    code = "rooms.not_owner"
    title = "Only the owner of the room may do this."
    error_code = 2104


class OwnerStays(AppError):
    """The owner of a room cannot leave it or be removed; archive it instead."""

    status = 409
    code = "rooms.owner_stays"
    title = "The owner of a room stays in it."
    error_code = 2105


class MemberNotFound(AppError):
    """Whoever is to be removed is not a member."""

    status = 404
    code = "rooms.member_not_found"
    title = "Nobody of this id is a member of the room."
    error_code = 2106
