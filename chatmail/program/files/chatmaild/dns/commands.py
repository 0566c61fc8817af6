"""The commands of the Salt module chatmail_dns. Each command imports only what it needs."""

from chatmaild.common.commands import answer
from chatmaild.dns.records import list_records


def make_zone(settings: dict, nameservers: list[str] | str | None) -> str:
    """Return the records as the text of a zone file."""
    from chatmaild.dns import rdata

    return rdata.make_zone(settings, nameservers)


def check(settings: dict, names: list[str] | str | None) -> dict:
    """Compare the records in DNS with the records that the relay needs."""
    from chatmaild.dns import checking

    return checking.check(settings, names)


def report(settings: dict) -> str:
    """Return the result of `check` as text."""
    from chatmaild.dns import checking

    return checking.report(settings)


def list_changes(settings: dict, names: list[str] | str | None) -> list[dict]:
    """Return the changes that DNS needs."""
    from chatmaild.dns import publishing

    return publishing.list_changes(settings, names)


def publish(settings: dict, names: list[str] | str | None) -> list[dict]:
    """Make the changes that DNS needs."""
    from chatmaild.dns import publishing

    return publishing.publish(settings, names)


def resolves(_settings: dict, name: str, search: list[str]) -> bool:
    """Return whether the relay's own resolver finds an address of a host.

    name: a host, as a program would ask for it. search: domains to try it in, too.
    """
    from chatmaild.dns import own_resolver

    return own_resolver.finds(name, search)


COMMANDS = {
    "records": list_records,
    "zone": make_zone,
    "check": check,
    "report": report,
    "changes": list_changes,
    "publish": publish,
    "resolves": resolves,
}

if __name__ == "__main__":
    answer(COMMANDS)
