"""A changed setting restarts or reloads the daemons that read it, and no others."""

from support.converging import apply, failed

# Each line adds a setting to those above: its value, the restarted units, the reloaded units.
TABLE = [
    ("delete_mails_after", 15, [], []),
    ("username_max_length", 12, ["chatmail-accounts"], []),
    ("max_user_send_per_minute", 70, ["chatmail-filter"], []),
    ("notification_url", "https://push.example/notify", ["chatmail-accounts"], []),
    ("max_smtp_connections", 400, [], ["postfix"]),
    ("imap_compress", True, [], ["dovecot"]),
    (
        "max_message_size",
        "20M",
        ["chatmail-filter", "chatmail-transport"],
        ["dovecot", "nginx", "postfix"],
    ),
    (
        "disable_ipv6",
        True,
        ["chatmail-accounts", "chatmail-transport", "coturn", "postfix", "unbound"],
        ["dovecot", "nginx"],
    ),
]
DAEMONS = ["coturn", "dovecot", "nginx", "postfix", "postfix@-", "unbound"]


def runs(relay):
    """Return {unit: (id of its present run, time of the last change of its state)}."""
    units = [f"chatmail-{name}" for name in ("accounts", "filter", "transport")]
    shown = relay.run(
        ["systemctl", "show", "--property=Id,InvocationID,StateChangeTimestampMonotonic"]
        + [f"{unit}.service" for unit in units + DAEMONS]
    ).stdout
    found = {}
    for block in shown.strip().split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        found[unit["Id"].removesuffix(".service")] = (
            unit["InvocationID"],
            unit["StateChangeTimestampMonotonic"],
        )
    # On Debian 12 an instance is Postfix, and postfix.service starts it.
    instance = found.pop("postfix@-", ("", "0"))
    return found | ({"postfix": instance} if instance[0] else {})


def test_setting_restarts_who_reads_it_and_reloads_who_can_be_reloaded(relay):
    """A restart ends sessions and makes mail wait, but most settings concern only one daemon."""
    found, given = [], {"mail_domain": relay.domain}
    before = runs(relay)
    try:
        for name, value, _, _ in TABLE:
            given[name] = value
            assert failed(apply(relay, "chatmail", **given)) == set(), name
            after = runs(relay)
            restarted = sorted(unit for unit in after if after[unit][0] != before[unit][0])
            touched = sorted(unit for unit in after if after[unit] != before[unit])
            found.append((name, value, restarted, sorted(set(touched) - set(restarted))))
            before = after
    finally:
        assert failed(apply(relay, "chatmail")) == set()
    assert found == TABLE


def test_systemd_has_read_every_unit(relay):
    """A drop-in that systemd has not read has no effect, and no message says so."""
    shown = relay.run("systemctl show '*' --property=Id,NeedDaemonReload").stdout.split("\n\n")
    assert [block for block in shown if "NeedDaemonReload=yes" in block] == []
