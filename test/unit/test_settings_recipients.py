"""backup_recipients: public keys that age takes, without mistyped letters, and no private key."""

import subprocess

import pytest
from support.settings import refused, resolve

AGE = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA2Jf1cLvkb3W49OCAoQ8wlsYgwsMnQPGA6id2trsZFs"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        ([AGE], [AGE]),
        ([SSH, f"{SSH} me@home", AGE, AGE], [SSH, f"{SSH} me@home", AGE]),
    ],
)
def test_public_keys_are_accepted_once(given, expected):
    assert resolve(backup_recipients=given)["backup_recipients"] == expected


def test_age_takes_what_the_settings_take():
    command = ["age", "--encrypt", "--recipient", AGE, "--recipient", f"{SSH} me@home"]
    subprocess.run(command, input=b"x", stdout=subprocess.DEVNULL, check=True)


@pytest.mark.parametrize(
    "value",
    [
        AGE,
        None,
        [None],
        [AGE[:-1]],
        [AGE + "p"],
        [AGE.replace("ql3", "qm3")],
        [AGE.upper()],
        [AGE + "\n"],
        ["--recipients-file=/etc/shadow"],
        [SSH[:-4]],
        [SSH + "\nssh-ed25519 AAAA"],
        ["ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ"],
    ],
)
def test_anything_else_is_refused(value):
    [line] = refused(backup_recipients=value)
    assert line.startswith("- backup_recipients: ")
    assert "allowed is a list of recipients" in line


@pytest.mark.parametrize("position", range(5, len(AGE)))
def test_one_mistyped_letter_is_noticed(position):
    other = "q" if AGE[position] != "q" else "p"
    refused(backup_recipients=[AGE[:position] + other + AGE[position + 1 :]])


@pytest.mark.parametrize(
    "secret", ["AGE-SECRET-KEY-1" + "Q" * 58, "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz"]
)
def test_private_key_in_the_pillar_is_not_shown(secret):
    for value in (secret, [secret]):
        [line] = refused(backup_recipients=value)
        assert secret[-8:] not in line
        assert "a private key, which belongs to nobody else" in line
