"""The steps of the check, in their order, and what the operator does when one of them fails."""

import functools
import time

from chatmaild.health import machine, mail, names, services, throwaway, web
from chatmaild.health.running import State, Step, run_step

# The units behind each service. Postfix takes no connection without the filter.
IMAP, SMTP, WEB = ("dovecot",), ("dovecot", "postfix", "chatmail-filter"), ("nginx",)
ENTRIES = (*IMAP, "chatmail-accounts")
GATEWAY = (*SMTP, *WEB, "chatmail-transport")

JOURNAL = "`journalctl -u {0}` says why; `systemctl restart {0}` starts it anew"
DOVECOT, POSTFIX, NGINX = (JOURNAL.format(name) for name in ("dovecot", "postfix", "nginx"))
FILTER, ACCOUNTS = (JOURNAL.format(f"chatmail-{name}") for name in ("filter", "accounts"))
APPLY = "`salt-call state.apply chatmail` repairs the relay's own configuration"
DNS = "`salt-call chatmail_dns.report` shows each record with its value"


def _login(name, port, units, advice):
    return Step(f"login {name} {port}", functools.partial(mail.log_in, name, port), advice, units)


STEPS = (
    Step("units", machine.units, "`systemctl status UNIT` and `journalctl -u UNIT` say why"),
    Step("disk", machine.disk, "Free space, or let `chatmail_expire.run` remove mail that is due"),
    Step("clock", machine.clock, "`timedatectl timesync-status` says which server was asked"),
    Step("queue", machine.queue, "`postqueue -p` says why each message waits"),
    Step("expiry", machine.expiry, "`journalctl -u chatmail-expire` says why"),
    Step("certificate", machine.certificate, "`state.apply chatmail.certificate` says why"),
    Step("tls", services.tls, "`systemctl reload dovecot postfix nginx` lets them read the file"),
    Step("addresses", throwaway.make_pair, f"{APPLY}. `df` and `ls -ld` show the directory"),
    _login("imap", 993, IMAP, DOVECOT),
    _login("imap", 143, IMAP, DOVECOT),
    _login("imap", 443, (*IMAP, *WEB), NGINX),
    _login("smtp", 465, SMTP, POSTFIX),
    _login("smtp", 587, SMTP, POSTFIX),
    _login("smtp", 443, (*SMTP, *WEB), NGINX),
    Step("message by submission", mail.send_by_submission, FILTER, SMTP),
    Step("message by /mxdeliv", mail.send_by_gateway, f"{FILTER}. {DNS}", GATEWAY),
    Step("message by port 25", mail.send_by_smtp, f"{FILTER}. {DNS}", SMTP),
    Step("refusal of cleartext", mail.refuses_cleartext, FILTER, SMTP),
    Step("refusal of a forged From", mail.refuses_forged_from, FILTER, SMTP),
    Step("refusal of cleartext on port 25", mail.refuses_incoming_cleartext, FILTER, SMTP),
    Step("refusal of a wrong password", mail.refuses_wrong_password, APPLY, IMAP),
    Step("metadata", services.metadata, ACCOUNTS, ENTRIES),
    Step("turn", services.turn, JOURNAL.format("coturn"), (*ENTRIES, "coturn")),
    Step("iroh", web.iroh, JOURNAL.format("chatmail-iroh")),
    Step("start page", web.start_page, "`salt-call state.apply chatmail.website` makes it", WEB),
    Step("new addresses", web.new_addresses, ACCOUNTS, (*WEB, *IMAP, "chatmail-accounts")),
    Step("mta-sts", web.mta_sts, "`salt-call state.apply chatmail.website` makes it", WEB),
    Step("dns", names.records, DNS),
    Step("dkim", names.signatures, f"{DNS}. `chatmail_dkim.list` shows the keys"),
    Step("updates", machine.updates, "`apt-get update` says why"),
)
REMOVAL = Step(
    "removal",
    throwaway.remove,
    "`chatmail_accounts.list` shows all addresses; `chatmail_accounts.delete` removes one",
)


def check(settings: dict, offline: bool) -> dict:
    """Run all steps; return the result in the form that `chatmail_relay.health` describes.

    settings: the relay's settings. offline: leave out what asks DNS.
    """
    state, began, found = State(settings, offline), time.monotonic(), []
    try:
        for step in STEPS:
            found.append(run_step(step, state))
    finally:
        found.append(run_step(REMOVAL, state))
    return {
        "result": all(step["result"] is not False for step in found),
        "seconds": round(time.monotonic() - began, 2),
        "steps": found,
    }
