"""The lab itself, which all other tests here use."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import dns.resolver
import dns.reversename
import pytest
from lab.host import STATE

# The name servers of this host. No test has entered the client's network yet, which has others.
RESOLV_CONF = Path("/etc/resolv.conf").read_text()
CLIENT_RESOLV_CONF = Path("/etc/netns/chatmail-client/resolv.conf")


def cgroup_traces(name):
    return list(Path("/sys/fs/cgroup").glob(f"**/chatmail-lab/{name}"))


def box_processes(name):
    """Return the command lines of this host's processes that belong to the keeper of a box."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if f"--machine={name}" in words or words[-3:-1] == ["_keep", name]:
                found.append(words)
    return found


def test_box_runs_systemd_of_its_release(idle_box, release):
    version = release.removeprefix("debian-")
    assert f'VERSION_ID="{version}"' in idle_box.run("cat /etc/os-release").stdout
    assert idle_box.run("cat /proc/1/comm").stdout.strip() == "systemd"
    assert idle_box.run("systemctl is-system-running").stdout.strip() == "running"


def test_box_has_the_records_that_its_owner_would_publish(idle_box):
    def ask(name, kind):
        return [str(record) for record in dns.resolver.resolve(name, kind)]

    domain = idle_box.domain
    assert ask(domain, "A") == [idle_box.ip]
    assert ask(domain, "MX") == [f"10 {domain}."]
    assert ask(f"mta-sts.{domain}", "CNAME") == [f"{domain}."]
    assert ask(dns.reversename.from_address(idle_box.ip), "PTR") == [f"{domain}."]
    (ipv6,) = ask(domain, "AAAA")
    assert f" {ipv6}/64 " in idle_box.run("ip -o address show dev host0").stdout


def test_command_in_box_gets_stdin_and_clean_environment_and_gives_exit_code(idle_box, lab):
    script = "cat; env; pwd; exit 7"
    done = lab("run", idle_box.name, "--", "sh", "-c", script, input="in\n", check=False)
    assert done.returncode == 7
    first, *rest = done.stdout.splitlines()
    assert first == "in"
    assert rest[-1] == "/root"
    names = {line.partition("=")[0] for line in rest[:-1]}
    assert names <= {"PATH", "HOME", "USER", "LANG", "TERM", "PWD", "_", "SHLVL", "OLDPWD"}


def test_box_finds_packages_but_no_way_out(idle_box):
    idle_box.run("apt-get update -q")
    assert "Candidate: (none)" not in idle_box.run("apt-cache policy postfix").stdout
    for family in ("-4", "-6"):
        assert idle_box.run(f"ip {family} route show default").stdout == ""
        assert idle_box.client("ip", family, "route", "show", "default").stdout == ""


def test_box_sees_the_formula_read_only(idle_box):
    formula = "/srv/formulas/chatmail/chatmail"
    assert "init.sls" in idle_box.run(f"ls {formula}").stdout
    assert "Read-only" in idle_box.run(f"touch {formula}/x", check=False).stderr


def test_dns_takes_a_value_longer_than_a_string_may_be(idle_box):
    name, value = f"long.{idle_box.domain}", 'v=DKIM1; p="' + "A\\" * 200
    idle_box.dns_set(name, "TXT", "old")
    idle_box.dns_set(name, "TXT", value)
    (record,) = dns.resolver.resolve(name, "TXT")
    assert b"".join(record.strings).decode() == value
    assert [len(part) for part in record.strings] == [255, len(value) - 255]
    idle_box.dns_del(name, "TXT")
    with pytest.raises(dns.resolver.NXDOMAIN):
        dns.resolver.resolve(name, "TXT")


def test_pillar_file_is_merged_with_the_domain(empty_box, tmp_path):
    extra = tmp_path / "extra.sls"
    extra.write_text("chatmail: {max_mailbox_size: 100M, mail_domain: other.example.org}\n")
    box = empty_box("--pillar", extra, "--domain", "Chat.example.org")
    pillar = box.salt("config.get", "chatmail")
    assert pillar["max_mailbox_size"] == "100M"
    assert pillar["mail_domain"] == "chat.example.org"


def test_box_whose_domain_is_an_address_has_that_address(empty_box):
    box = empty_box("--domain", "198.51.100.199")
    assert box.ip == box.domain == "198.51.100.199"
    assert box.salt("config.get", "chatmail:mail_domain") == "198.51.100.199"


def test_image_with_packages_has_those_that_a_relay_installs_and_runs_none(empty_box, relay):
    box = empty_box("--packages")
    history = relay.run("cat /var/log/apt/history.log").stdout
    by_salt = next(line for line in history.splitlines() if "DPkg::Options" in line)
    wanted = set(by_salt.partition(" install ")[2].split())
    assert "postfix" in wanted
    assert wanted - set(box.run("dpkg-query -Wf '${Package}\n'").stdout.split()) == set()
    assert box.run("ss -Hltn").stdout == ""


def test_setup_while_the_lab_runs_leaves_the_file_that_names_the_clients_dns(lab, idle_box):
    """Clients of other test runs read it. For a moment, a written file is empty."""
    written = CLIENT_RESOLV_CONF.stat().st_mtime_ns
    lab("setup")
    assert CLIENT_RESOLV_CONF.stat().st_mtime_ns == written


def test_two_boxes_reach_each_other_and_keep_their_services_apart(empty_box):
    one, two = empty_box(), empty_box("--bare")
    for box in (one, two):
        box.run("systemd-run --unit=probe sleep 600")
    one.run("systemctl stop probe")
    assert two.run("systemctl is-active probe").stdout.strip() == "active"
    answer = "import socket; socket.create_server(('', 7)).accept()[0].sendall(b'hello from one')"
    one.run(["systemd-run", "--unit=answer", "python3", "-c", answer])
    one.wait_until(lambda: one.run("ss -Hltn sport = 7").stdout)
    ask = f"exec 3<>/dev/tcp/{one.domain}/7; cat <&3"
    assert two.run(["bash", "-c", ask]).stdout == "hello from one"


def test_reboot_from_within_brings_disk_and_network_back(idle_box):
    idle_box.run("touch /run/gone /root/kept && sync")
    idle_box.reboot()
    assert idle_box.run("ls /run/gone /root/kept", check=False).stdout.split() == ["/root/kept"]
    assert idle_box.run("systemctl is-system-running").stdout.strip() == "running"
    with contextlib.suppress(ConnectionRefusedError):  # it is there, and refuses by itself
        socket.create_connection((idle_box.ip, 9), timeout=10).close()


@pytest.mark.parametrize("victim", ["keeper", "systemd-nspawn"])
def test_up_and_down_clear_what_a_crash_left(empty_box, lab, victim):
    box = empty_box()
    record = STATE / box.name / "keeper.pid"
    keeper = json.loads(record.read_text())["pid"]
    if victim == "keeper":
        pid = keeper
    else:
        (pid,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    box.run("touch /root/kept")
    os.kill(int(pid), signal.SIGKILL)
    box.wait_until(lambda: "dead" in lab("list").stdout.partition(box.name)[2].splitlines()[0])

    lab("up", box.name, "--no-converge")
    assert box.run("ls /root").stdout == ""

    keeper = json.loads(record.read_text())["pid"]
    os.kill(keeper, signal.SIGKILL)
    lab("down", box.name)
    assert not (STATE / box.name).exists()
    assert cgroup_traces(box.name) == []
    assert box_processes(box.name) == []
    assert box.name not in Path("/proc/self/mounts").read_text()
    with pytest.raises(dns.resolver.NXDOMAIN):
        dns.resolver.resolve(box.domain, "A")
    lab("up", box.name, "--no-converge")  # for the fixture to end


def test_one_of_two_that_want_the_same_name_gets_it(lab, release):
    name = f"race-{os.getpid()}"
    verb = [lab.__globals__["LAB"], "up", name, "--os", release, "--no-converge"]
    both = [subprocess.Popen(verb, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    try:
        assert sorted(process.returncode for process in both) == [0, 1], errors
        assert f"box {name} runs already" in "".join(errors)
        assert len(box_processes(name)) == 2  # one keeper, one nspawn
    finally:
        lab("down", name)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nobody", "--", "true"], "there is no box nobody"),
        (["down", "nobody"], "there is no box nobody"),
        (["down"], "say which box to end"),
        (["up", "Bad_Name"], "Bad_Name cannot be the name of a box"),
        (["up", "x", "--domain", "192.0.2.1"], "192.0.2.1 is not an address for a box"),
        (["up", "x", "--pillar", "/nowhere"], "/nowhere"),
        (["up", "x", "--arch", "arm64"], "--arch is for --vm"),
    ],
)
def test_mistake_is_answered_with_one_sentence(lab, arguments, sentence):
    done = lab(*arguments, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_machine_without_rights_is_told_so(lab):
    verb = str(lab.__globals__["LAB"])
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run([*nobody, verb, "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs root" in done.stderr


def test_verb_called_by_a_client_finds_the_hosts_network_and_name_servers(lab):
    """Images are built in the host's network. A client's name server knows no package index."""
    directory = Path(lab.__globals__["LAB"]).parent
    look = ["sh", "-c", "ip -o -4 address show dev lab0; cat /etc/resolv.conf"]
    program = f"import sys; sys.path.insert(0, {str(directory)!r}); import network; "
    program += f"network.leave_client({look!r})"
    seen = subprocess.run(["/usr/bin/python3", "-c", program], capture_output=True, text=True)
    address, *resolv_conf = seen.stdout.splitlines(keepends=True)
    assert " 198.51.100.254/24 " in address
    assert "".join(resolv_conf) == RESOLV_CONF
    assert Path("/etc/resolv.conf").read_text() != RESOLV_CONF


def test_second_lab_is_refused_while_one_runs(lab, tmp_path):
    environment = {**os.environ, "CHATMAIL_LAB_DIRECTORY": str(tmp_path)}
    refused = lab("setup", check=False, env=environment)
    assert refused.returncode == 1
    assert "another lab, in " in refused.stderr
    assert "`lab down --all` ends it" in refused.stderr


def test_images_that_cannot_be_built_end_a_run_with_one_message(lab, release, tmp_path):
    environment = {**os.environ, "CHATMAIL_LAB_DIRECTORY": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__, "--os", release]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.count("the lab cannot build its images") == 1
    assert "another lab, in " in done.stdout
    assert " error" not in done.stdout.splitlines()[-1]
