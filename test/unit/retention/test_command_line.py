"""The report, the command line, and the metrics."""

import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from chatmaild.common.errors import OperatorError
from chatmaild.common.settings import load_settings
from chatmaild.retention import commands, prometheus
from chatmaild.retention.quota import cut_one
from chatmaild.retention.removal import remove_one
from support.mailbox_tree import (
    DAY,
    DOMAIN,
    PACKAGE,
    make_mailbox,
    write_message,
)
from support.retention_oracle import (
    MEGABYTE,
    a_mailbox,
    everything,
    sweep,
)

PROGRAM = [sys.executable, "-m", "chatmaild.retention"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}


def test_report_counts_addresses_and_sizes(mail, relay_json):
    for name, days in (("ci-000001", 0), ("today0000", 0.5), ("week00000", 9), ("old000000", 160)):
        a_mailbox(mail, name, login_days=days)
    box = Path(mail["mailboxes_dir"], f"today0000@{DOMAIN}")
    for serial, disk in enumerate((1, 102_399, 102_400, 1_048_576, 10_485_760)):
        write_message(box / "cur", time.time(), serial=serial, disk=disk)
    before = everything(mail["mailboxes_dir"])
    numbers = commands.report(load_settings(relay_json))
    assert everything(mail["mailboxes_dir"]) == before
    passwords = 4 * len("{SHA512-CRYPT}$6$x")
    messages = 1 + 102_399 + 102_400 + 1_048_576 + 10_485_760
    assert numbers == {
        "accounts": {"all": 4, "ci": 1, "user": 3},
        "accounts_active": {
            "1": 1, "10": 2, "30": 2, "40": 2, "80": 2, "100": 2, "150": 2
        },
        "storage_bytes": {
            "messages": messages, "extra": passwords, "total": messages + passwords
        },
        "messages_bytes": {
            "0": messages, "102400": messages - 102_400, "524288": 11_534_336,
            "1048576": 11_534_336, "2097152": 10_485_760, "5242880": 10_485_760,
            "10485760": 10_485_760,
        },
        "messages_count": {
            "0": 5, "102400": 3, "524288": 2, "1048576": 2, "2097152": 1, "5242880": 1,
            "10485760": 1,
        },
    }  # fmt: skip


def command(*arguments, **options):
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=ENVIRONMENT, capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


def test_command_run_removes_and_shows_no_address(mail, relay_json):
    box = a_mailbox(mail, login_days=100)
    other = a_mailbox(mail, "user00002")
    write_message(other / "cur", time.time() - 30 * DAY, disk=2048)
    dry = command("run", "--config", relay_json, "--dry-run")
    assert dry.returncode == 0
    assert f"would remove (inactive): '{box.name}'\n" in dry.stdout
    assert re.search(rf"would remove \(old\): '{other.name}/cur/\d+\.M", dry.stdout)
    assert box.exists()
    done = command("run", "--config", relay_json)
    assert done.stdout == (
        "removed messages: 1 old, 0 large, 0 over_quota (2.0K)\n"
        "removed 1 inactive mailboxes, 0 empty directories\n"
        "passed over: 0 vanished, 0 strange, 0 unreadable\n"
    )
    assert done.stderr == ""
    assert not box.exists()


def test_command_on_a_terminal_shows_progress(mail, relay_json):
    a_mailbox(mail)
    terminal, stderr = pty.openpty()
    try:
        subprocess.run(
            [*PROGRAM, "report", "--config", relay_json],
            env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=stderr, check=True,
        )  # fmt: skip
        assert os.read(terminal, 1000) == b"\r1 mailboxes seen, 0 removed, 0 messages removed \r\n"
    finally:
        os.close(terminal)
        os.close(stderr)


def test_command_quota_takes_an_address_or_its_directory(mail, relay_json):
    box, now = a_mailbox(mail), time.time()
    for days in (2, 3):
        write_message(box / "cur", now - days * DAY, size=300 * MEGABYTE)
    done = command("quota", "--config", relay_json, "--json", f"{box}/")
    assert json.loads(done.stdout)["after"] == 300 * MEGABYTE
    done = command("quota", box.name, "1", "--config", relay_json)
    assert "quota: 300.0M before, 0B after\n" in done.stdout
    assert box.name not in done.stdout


def test_command_quota_as_dovecot_calls_it_prints_nothing_but_errors(mail, relay_json):
    """Once, Dovecot logged a broken pipe for each quota warning: it closes standard output."""
    box = a_mailbox(mail)
    done = command("quota", "--quiet", box.name, "--config", relay_json)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = command("quota", "--quiet", "nobody", "--config", relay_json)
    assert done.returncode == 1
    assert "no mailbox of this relay" in done.stderr


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "/", "/etc", "/etc/passwd", "victim", f"../victim@{DOMAIN}", f"@{DOMAIN}",
        f"./victim@{DOMAIN}", f"UPPER@{DOMAIN}", f"a@b@{DOMAIN}", f"a\0b@{DOMAIN}",
        f"victim@{DOMAIN}\n", "victim@elsewhere.example", f"/tmp/victim@{DOMAIN}",
        f"{{top}}/../mail/victim@{DOMAIN}", f"{{top}}/x/victim@{DOMAIN}", "{top}", "{top}/..",
        f"{{top}}//victim@{DOMAIN}/../..",
    ],
)  # fmt: skip
def test_quota_and_remove_are_refused_without_a_mailbox(mail, path):
    a_mailbox(mail, "victim")
    for refuses in (lambda path: cut_one(mail, path, 0), partial(remove_one, mail)):
        with pytest.raises(OperatorError, match="is no mailbox of this relay"):
            refuses(path.replace("{top}", mail["mailboxes_dir"]))


def test_quota_of_an_address_that_is_a_link_is_refused(mail, tmp_path):
    outside = make_mailbox(tmp_path / "outside", "x", login=0)
    Path(mail["mailboxes_dir"], f"link00000@{DOMAIN}").symlink_to(outside)
    with pytest.raises(OperatorError, match="cannot open the mailbox"):
        cut_one(mail, f"link00000@{DOMAIN}", 0)


@pytest.mark.parametrize("target", ["-1", "70%", "1e9", ""])
def test_quota_with_an_impossible_target_is_refused(mail, target):
    box = a_mailbox(mail)
    with pytest.raises(OperatorError, match="is no number of bytes"):
        cut_one(mail, box.name, target)


def test_command_without_settings_or_disk_says_what_to_do(mail, tmp_path, relay_json):
    done = command("run", "--config", tmp_path / "none.json")
    assert done.returncode == 1
    assert "cannot read the relay's settings" in done.stderr
    assert "Run `salt-call state.apply chatmail` first" in done.stderr
    Path(tmp_path, "empty.json").write_text("{}", encoding="utf-8")
    assert (
        "lacks address_domain, delete_in"
        in command("report", "--config", tmp_path / "empty.json").stderr
    )
    shutil.rmtree(mail["mailboxes_dir"])
    assert "Is its disk mounted" in command("run", "--config", relay_json).stderr


def test_command_writes_metrics_for_prometheus(mail, relay_json, tmp_path):
    a_mailbox(mail, "ci-000001")
    for serial in (1, 2):
        old = a_mailbox(mail, f"user{serial:05d}", login_days=serial)
        write_message(old / "cur", time.time() - 30 * DAY)
        command("run", "--config", relay_json, "--prometheus", tmp_path)
        command("run", "--dry-run", "--config", relay_json, "--prometheus", tmp_path)
    sums = Path(tmp_path, "expire.prom").read_text(encoding="ascii").splitlines()
    assert "chatmail_expire_runs_total 2" in sums
    assert 'chatmail_expire_removed_total{reason="old"} 2' in sums
    assert stat.S_IMODE(Path(tmp_path, "expire.prom").stat().st_mode) == 0o644
    text = Path(tmp_path, "report.prom").read_text(encoding="ascii")
    for line in (
        'chatmail_accounts{kind="all"} 3',
        'chatmail_accounts{kind="ci"} 1',
        'chatmail_accounts_active{days="10"} 2',
        'chatmail_messages_count{min_size="0"} 0',
        'chatmail_messages_bytes{min_size="10485760"} 0',
        'chatmail_storage_bytes{kind="messages"} 0',
        "# TYPE chatmail_storage_bytes gauge",
    ):
        assert f"{line}\n" in text
    assert DOMAIN not in text
    assert sorted(path.name for path in tmp_path.glob("*.prom*")) == ["expire.prom", "report.prom"]


def test_metrics_can_be_parsed_by_the_client_of_prometheus(mail):
    parser = pytest.importorskip("prometheus_client.parser", reason="no python3-prometheus-client")
    numbers = sweep(mail)[0]
    text = prometheus.format_report(numbers["report"])
    text += prometheus.format_sums({}, numbers["removed"])
    families = {family.name for family in parser.text_string_to_metric_families(text)}
    assert families == {
        "chatmail_storage_bytes", "chatmail_messages_bytes", "chatmail_messages_count",
        "chatmail_accounts", "chatmail_accounts_active", "chatmail_expire_runs",
        "chatmail_expire_removed",
    }  # fmt: skip
