"""A run of ping whose master died in the middle."""

TOKEN = "abcdefghij234567"


def test_relay_removes_the_address_of_a_run_by_itself(relay):
    """Once, the relay's own hardening forbade the removal, and the address stayed for months."""
    relay.salt("chatmail_ping.open", TOKEN)
    home = relay.run("ls -d /home/vmail/mail/*/abcdefghij234567@*").stdout.strip()
    try:
        # The timer starts this service after half an hour.
        relay.run(f"systemctl start --wait relay-ping-{TOKEN}.service")
        assert relay.run(f"test -e {home}", check=False).returncode == 1
        assert TOKEN not in relay.run("systemctl list-units --all --no-legend").stdout
    finally:
        relay.salt("chatmail_ping.close", TOKEN)
