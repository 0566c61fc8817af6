"""The frame of the check: it runs steps one after the other, and says what each of them found."""

import imaplib
import smtplib
import time
from collections.abc import Callable
from typing import NamedTuple


class Failed(Exception):
    """A step found a fault. The text says what was found, and what is expected."""


class NotAsked(Exception):
    """A step does not apply, or cannot be asked. The text is the reason."""


class Account(NamedTuple):
    """A throwaway address and its password."""

    address: str
    password: str


class State:
    """What the steps share.

    settings: the relay's settings. offline: whether to leave out what asks DNS.
    units: the state of each installed unit, which the step `units` fills in.
    made: the throwaway addresses that exist or may exist. They are removed at the end.
    """

    def __init__(self, settings: dict, offline: bool):
        self.settings, self.offline = settings, offline
        self.units: dict[str, str] = {}
        self.made: list[Account] = []
        self.pair: tuple[Account, Account] | None = None
        self.dns: dict | None = None

    def accounts(self) -> tuple[Account, Account]:
        """Return the two addresses. Raises NotAsked when they could not be made."""
        if self.pair is None:
            raise NotAsked("there are no throwaway addresses (see the step addresses)")
        return self.pair

    def needs_dns(self) -> None:
        """Raise NotAsked when DNS is left out."""
        if self.offline:
            raise NotAsked("it needs DNS, and offline=True leaves out DNS")

    def needs_units(self, *names: str) -> None:
        """Raise NotAsked when one of the units does not run."""
        for name in names:
            found = self.units.get(name, "not installed")
            if found != "active":
                raise NotAsked(f"{name} is {found} (see the step units)")

    def hide(self, text: str) -> str:
        """Return a text without the throwaway addresses and their passwords."""
        for account in self.made:
            text = text.replace(account.address, "<address>")
            text = text.replace(account.password, "<password>")
        return text


class Step(NamedTuple):
    """One question to the relay.

    ask: a function that returns what it found. It raises Failed or NotAsked; any other exception
        counts as a failure, too.
    advice: what the operator does when the step fails.
    units: the units that must run. Otherwise the step is not asked, because the step `units` has
        failed already, and one fault should fail one step.
    """

    name: str
    ask: Callable[[State], str]
    advice: str
    units: tuple[str, ...] = ()


def run_step(step: Step, state: State) -> dict:
    """Run a step; return {"name", "result", "seconds", "comment"}."""
    began = time.monotonic()
    try:
        state.needs_units(*step.units)
        result, comment = True, step.ask(state)
    except NotAsked as reason:
        result, comment = None, f"not asked: {reason}"
    except Exception as error:
        result, comment = False, f"{describe(error).rstrip('.')}. {step.advice}"
    return {
        "name": step.name,
        "result": result,
        "seconds": round(time.monotonic() - began, 2),
        "comment": state.hide(comment),
    }


def describe(error: Exception) -> str:
    """Return the text of an error for the operator, on one line."""
    if isinstance(error, Failed):
        return str(error)
    if isinstance(error, TimeoutError):
        return "there was no answer in time"
    code, text = reply_of(error)
    if code:
        return f"the relay answered {code} {text}"
    if isinstance(error, imaplib.IMAP4.error):
        return f"the relay answered {error}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def reply_of(error: Exception) -> tuple[int, str]:
    """Return the code and the text of an SMTP refusal, (0, "") for any other error."""
    reply = 0, b""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        reply = next(iter(error.recipients.values()))
    elif isinstance(error, smtplib.SMTPResponseException):
        reply = error.smtp_code, error.smtp_error
    code, text = reply
    text = text if isinstance(text, str) else text.decode("ascii", "replace")
    return code, " ".join(text.split())
