"""bootstrap.sh on a bare server: its refusals and its result.

A bare box has the repository at /srv/checkout, as after `git clone`, and wheels of Salt at
/srv/wheels instead of a package index: the lab can only reach Debian's packages.
"""

import json
import re

import pytest

BOOTSTRAP = "/srv/checkout/bootstrap.sh"
WITH_WHEELS = f"PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels {BOOTSTRAP}"
LISTEN = (
    "use IO::Socket::INET; my @held = map {{ "
    "IO::Socket::INET->new(Proto => '{protocol}', LocalPort => $_, {more}) or die $@ "
    "}} ({ports}); sleep"
)


def files(box):
    """Return every file of the machine with size and time of its last change."""
    skipped = (
        "-path /proc -o -path /sys -o -path /run -o -path /dev -o -path /srv -o -path /var/log"
    )
    return box.run(
        f"find / \\( {skipped} -o -path /tmp \\) -prune -o -type f -printf '%p %s %T@\\n' | sort;"
        "find /srv -maxdepth 1; ls /etc/salt /opt",
        check=False,
    ).stdout.splitlines()


def hold(box, unit, protocol, *ports):
    """Start a unit with a program that listens on ports."""
    more = "Listen => 1" if protocol == "tcp" else ""
    program = LISTEN.format(protocol=protocol, more=more, ports=", ".join(map(str, ports)))
    box.run(["systemd-run", f"--unit={unit}", "perl", "-e", program])
    box.wait_until(lambda: box.run(f"ss -Hln --{protocol} sport = :{ports[-1]}").stdout)


@pytest.fixture
def refused(bare_box):
    """Run a command line that must be refused; check that nothing changed; return its output."""
    before = files(bare_box)

    def run(line):
        done = bare_box.run(line, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert files(bare_box) == before
        return done.stderr

    return run


@pytest.mark.parametrize(
    "domain",
    [
        "chat",
        "chat..example.org",
        "chat-.example.org",
        "chat_.example.org",
        "https://chat.example.org",
        "user@chat.example.org",
        "1.2.3",
        "1.2.3.256",
        "127.0.0.1",
        "255.255.255.255",
        "[1.2.3.4]",
        "chat.example.123",
        "chat.example.org; true",
        f"{'a' * 64}.example.org",
        f"{'a.' * 123}org",
    ],
)
def test_name_that_is_no_mail_domain_is_refused(bare_box, domain):
    done = bare_box.run([BOOTSTRAP, domain], check=False)
    assert done.returncode == 1
    assert f'"{domain}" is no mail domain' in done.stderr
    assert bare_box.run("ls /opt /srv/formulas /srv/pillar", check=False).stdout == "/opt:\n"


def test_missing_domain_is_answered_with_the_usage(refused):
    assert "usage:" in refused(BOOTSTRAP)


def test_user_who_is_not_root_is_refused(refused):
    nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    assert "must run as root" in refused(f"{nobody} {BOOTSTRAP} chat.example.org")


def test_other_system_is_refused(refused):
    output = refused(
        "unshare --mount sh -c 'mount -t tmpfs tmpfs /mnt && "
        'echo "ID=ubuntu VERSION_ID=24.04 PRETTY_NAME=Ubuntu" | tr " " "\\n" > /mnt/os && '
        f"mount --bind /mnt/os /usr/lib/os-release && {BOOTSTRAP} chat.example.org'"
    )
    assert "this is Ubuntu; a relay needs Debian 12 or 13" in output


def test_taken_ports_are_refused_and_all_of_them_named(bare_box, refused):
    hold(bare_box, "oldmail", "tcp", 25, 587)
    hold(bare_box, "oldturn", "udp", 3478)
    try:
        pids = [
            bare_box.run(f"systemctl show --value --property=MainPID {unit}").stdout.strip()
            for unit in ("oldmail", "oldturn")
        ]
        output = refused(f"{BOOTSTRAP} chat.example.org")
    finally:
        bare_box.run("systemctl stop oldmail oldturn")
    assert re.findall(r"(\d+/\w+)  (\S+) \(pid (\d+)\)", output) == [
        ("25/tcp", "perl", pids[0]),
        ("587/tcp", "perl", pids[0]),
        ("3478/udp", "perl", pids[1]),
    ]


# Holds the lock of apt-get update, as apt's own timers do, until bootstrap.sh says that it waits.
HOLD_APT = r"""
use Fcntl;
open(my $lock, '>>', '/var/lib/apt/lists/lock') or die;
my $whole_file = pack('s s x4 q q i x4', F_WRLCK, 0, 0, 0, 0);
fcntl($lock, F_SETLK, $whole_file) or die "lock: $!";
open(my $held, '>', '/run/held') or die;
for (1..600) {
  last if `cat /run/said 2>&1` =~ /another program uses apt/;
  select(undef, undef, undef, 0.1);
}
"""

# The lab has no way to the iroh relay's program, and a box has the load of the whole host.
LAB_PILLAR = """ext_pillar:
  - cmd_yaml: "echo '{chatmail: {iroh_relay: \\"\\", max_load_1m: 1000}}'"
"""


def test_bare_server_becomes_a_relay_and_a_second_run_changes_nothing(empty_box):
    box = empty_box("--bare")
    box.run("mkdir -p /etc/salt/minion.d && cat > /etc/salt/minion.d/lab.conf", input=LAB_PILLAR)
    box.run("cat > /run/hold", input=HOLD_APT)
    box.run("systemd-run --unit=hold perl /run/hold")
    box.wait_until(lambda: box.run("test -e /run/held", check=False).returncode == 0)
    line = f"set -o pipefail; {WITH_WHEELS} {box.domain.upper()}. | tee /run/said"
    first = box.run(["bash", "-c", line], check=False)
    assert "another program uses apt; waiting" in first.stdout
    assert first.returncode == 0, first.stdout[-6000:] + first.stderr[-3000:]
    assert f"The relay for {box.domain} is set up." in first.stdout
    settings = json.loads(box.run("cat /etc/chatmail/relay.json").stdout)
    assert settings["mail_domain"] == box.domain
    assert box.run("systemctl is-active nginx dovecot").stdout.split() == ["active"] * 2

    box.run("echo '  max_mailbox_size: 500M' >> /srv/pillar/chatmail.sls")
    second = box.run(f"{WITH_WHEELS} {box.domain}", check=False)
    assert second.returncode == 0, second.stdout[-6000:] + second.stderr[-3000:]
    assert "max_mailbox_size" in box.run("cat /srv/pillar/chatmail.sls").stdout
    assert re.search(r"Succeeded: \d+\n", second.stdout), second.stdout[-3000:]

    other = box.run(f"{BOOTSTRAP} other.example.org", check=False)
    assert other.returncode == 1
    assert f"has mail_domain: {box.domain}, not other.example.org" in other.stderr

    box.run("systemctl stop nginx")
    hold(box, "oldweb", "tcp", 80)
    taken = box.run(f"{BOOTSTRAP} {box.domain}", check=False)
    assert taken.returncode == 1
    assert re.findall(r"(\d+/\w+)  (\S+) ", taken.stderr) == [("80/tcp", "perl")]


INI = "/usr/local/lib/chatmaild/chatmail.ini"


@pytest.fixture
def cmdeploy(bare_box):
    """Put cmdeploy's settings on the machine."""
    settings = "[params]\nmail_domain = chat.example.org\n"
    bare_box.run(["install", "-D", "/dev/stdin", INI], input=settings)
    yield
    bare_box.run(f"rm -rf {INI.rpartition('/')[0]}")


def test_machine_of_cmdeploy_is_refused_with_the_way_to_take_it_over(cmdeploy, refused):
    told = refused(f"{BOOTSTRAP} chat.example.org")
    assert "cmdeploy of chatmail/relay set this machine up" in told
    assert f"run: {BOOTSTRAP} --adopt" in told


def test_machine_without_cmdeploy_is_not_adopted(refused):
    told = refused(f"{BOOTSTRAP} --adopt")
    assert f"{INI} is not there: cmdeploy of chatmail/relay did not set this machine up" in told


def test_machine_of_cmdeploy_gets_salt_and_its_mail_service_stays(bare_box, cmdeploy, release):
    hold(bare_box, "oldmail", "tcp", 25)
    try:
        done = bare_box.run(["bash", "-c", f"{WITH_WHEELS} --adopt"], check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "chatmail_adopt.plan" in done.stdout
        assert bare_box.run("systemctl is-active oldmail").stdout == "active\n"
    finally:
        bare_box.run("systemctl stop oldmail")
    assert "mail_domain: chat.example.org" in bare_box.run("cat /srv/pillar/chatmail.sls").stdout
    # It is half a machine of cmdeploy, so the plan refuses it; but it answers.
    planned = bare_box.run("salt-call --out=json chatmail_adopt.plan", check=False)
    found = json.loads(planned.stdout)["local"]
    assert (planned.returncode, found["state"], found["domain"]) == (
        1,
        "refused",
        "chat.example.org",
    )
    newer = [each for each in found["problems"] if "found Debian 13, expected Debian 12" in each]
    assert len(newer) == (release == "debian-13")
