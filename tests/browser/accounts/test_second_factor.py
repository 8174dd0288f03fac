"""A second factor, from its QR code to the recovery code."""

from datetime import UTC, datetime, timedelta

import pyotp
from playwright.sync_api import Page, expect

from tests.browser.accounts.people import sign_up
from tests.browser.accounts.visiting import account, log_in, log_out, part
from tests.browser.conftest import Visits
from tests.server import RunningServer


def set_up(page: Page) -> tuple[pyotp.TOTP, list[str]]:
    """Add a second factor; the authenticator, and the recovery codes."""
    account(page, "Security")
    factor = part(page, "Second factor")
    factor.get_by_role("button", name="Set up an authenticator").click()
    expect(factor.get_by_role("img", name="QR code")).to_be_visible()
    authenticator = pyotp.TOTP(factor.locator(".secret").inner_text())
    factor.get_by_label("Code that it shows").fill(authenticator.now())
    page.keyboard.press("Enter")
    codes = factor.locator(".codes li")
    expect(codes).to_have_count(10)
    told = codes.all_inner_texts()
    factor.get_by_role("button", name="I have kept them").click()
    expect(factor).to_contain_text("10 recovery codes left")
    return authenticator, told


def test_who_has_a_second_factor_is_asked_for_it(server: RunningServer, visits: Visits) -> None:
    """After the password, and a wrong code does not do."""
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    email = sign_up(page, "Ada")
    authenticator, _ = set_up(page)
    log_out(page)
    log_in(page, email)
    code = page.locator("#log-in").get_by_label("Code of your authenticator")
    expect(code).to_be_focused()
    code.fill("000000")
    page.keyboard.press("Enter")
    expect(page.locator("#log-in .problem")).to_be_visible()
    code.fill(authenticator.at(datetime.now(UTC) + timedelta(seconds=30)))  # this step is used
    page.keyboard.press("Enter")
    expect(page.locator("#user-name")).to_have_text("Ada")


def test_a_recovery_code_stands_in_once(server: RunningServer, visits: Visits) -> None:
    """Then one is left less."""
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    email = sign_up(page, "Ada")
    _, codes = set_up(page)
    log_out(page)
    log_in(page, email)
    page.locator("#log-in").get_by_label("Code of your authenticator").fill(codes[0])
    page.keyboard.press("Enter")
    expect(page.locator("#user-name")).to_have_text("Ada")
    account(page, "Security")
    expect(part(page, "Second factor")).to_contain_text("9 recovery codes left")
