"""A copy from an old machine that somebody else controls, with a real rsync."""

import os
import stat

import pytest
from chatmaild.certificate.certbot import DEPLOY_HOOK
from chatmaild.common.errors import OperatorError
from chatmaild.inventory import places
from chatmaild.move import checking
from support.two_machines import copy


def test_links_devices_and_rights_of_an_owner_stay_away(machines):
    """Once, root on the new machine met a link in a mailbox, and a program with root's rights."""
    old, new = machines
    (old / "link").symlink_to("/etc/shadow")
    (old / "directory").symlink_to("/etc")
    os.mkfifo(old / "pipe")
    (old / "program").write_text("x")
    (old / "program").chmod(0o6755)
    if os.geteuid() == 0:
        os.mknod(old / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert copy() == {"files": 1, "bytes": 1}
    assert [path.name for path in new.iterdir()] == ["program"]
    assert stat.S_IMODE((new / "program").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("privkey.pem", "/etc/shadow"),
        ("privkey.pem", "../shadow"),
        ("privkey.pem", "pair-1/.."),
        ("privkey.pem", "."),
        ("pair-1/x", "../../../etc/shadow"),
        ("privkey.pem", "../../archive/chatmail/../../../shadow"),
    ],
)
def test_link_out_of_the_certificate_is_refused_and_not_in_use(machines, name, target):
    old, new = machines
    keys, copied = old.parent / "keys", new.parent / "keys"
    (keys / "pair-1").mkdir()
    copy()
    (keys / name).symlink_to(target)
    with pytest.raises(OperatorError, match=r"a link .* expected: one inside of its directory"):
        copy()
    assert not os.path.lexists(copied / name)


def test_links_of_a_relay_are_copied(machines):
    old, new = machines
    keys, copied = old.parent / "keys", new.parent / "keys"
    links = {
        "current": "pair-ab_1",
        "fullchain.pem": "current/fullchain.pem",
        "cert.pem": "../../archive/chatmail/cert12.pem",
    }
    for name, target in links.items():
        (keys / name).symlink_to(target)
    copy()
    assert {name: os.readlink(copied / name) for name in links} == links


def test_directory_that_became_a_link_is_refused(machines):
    old, new = machines
    keys = old.parent / "keys"
    copy()
    keys.rmdir()
    keys.symlink_to("/etc")
    with pytest.raises(OperatorError, match="expected: one inside"):
        copy()
    assert (new.parent / "keys").is_dir()
    assert not (new.parent / "keys").is_symlink()


def test_certbot_runs_no_command_of_the_old_machine(machines, monkeypatch):
    """Once, a hook in the renewal's configuration ran as root on the new machine."""
    old, new = machines
    path = old.parent / "renewal.conf"
    kept = f"server = https://ca.example.org\nrenew_hook = {DEPLOY_HOOK}\n"
    path.write_text(f'pre_hook = id\nnginx_ctl = id\n{kept}"post_hook" = id\nrenew_hook = id\n')
    copied = new.parent / "renewal.conf"
    # It is not in its place before somebody has looked at it.
    seen, check = [], checking.check
    monkeypatch.setattr(
        checking, "check", lambda *given: (seen.append(copied.exists()), check(*given))
    )
    copy()
    assert seen == [False, False]
    assert copied.read_text() == kept


def test_checked_paths_are_among_those_of_a_relay():
    paths = places.list_paths({"mailboxes_dir": "/m", "tls_mode": "acme"}, last=False)
    assert set(checking.CHECKED) <= set(paths)
