#!/usr/bin/python3
"""`make vm`: check a relay on a virtual machine, which has its own kernel.

The program boots a machine, converges it, and checks that a second run changes nothing. It checks
that the kernel limits and AppArmor are in force, and that a message arrives. After a reboot it
checks these again. It prints a line with figures for each check. The first failure ends the program
with exit code 1, and the machine stays for a look. After a success the machine is removed.
"""

import argparse
import sys
import time
from pathlib import Path

import boxes
import commands
import converging
import demo
import images
import vmimages
from host import LabError, lock, say

LAB = Path(__file__).with_name("lab")
SYSCTLS = "/etc/sysctl.d/90-chatmail.conf"
FILTER_WEIGHT = "10"  # of chatmail-filter: a tenth of the usual 100
SELFTEST_TIMEOUT = 300  # seconds; on a busy host the message took 15

# A unit in the machine notes the available memory every five seconds.
WATCH_MEMORY = """
systemd-run --quiet --unit=memory-watch \
sh -c 'while sleep 5; do sed -n "s/MemAvailable: *\\([0-9]*\\) kB/\\1/p" /proc/meminfo; done \
>>/root/memory-available'
"""


def main():
    """Run all checks; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--os", choices=sorted(images.SUITES), default="debian-13")
    parser.add_argument("--arch", choices=vmimages.ARCHITECTURES, default="amd64")
    arguments = parser.parse_args()
    name = f"vm-{arguments.os}-{arguments.arch}"
    started = time.monotonic()
    try:
        box = boot(name, arguments)
        converge(box)
        converge_again(box)
        in_force(box)
        reboot(box)
        in_force(box)
        with lock("boxes"):
            boxes.remove(name)
    except LabError as error:
        say(f"make vm: {error}")
        if name in boxes.names():
            say(f"look inside with: {LAB} run {name}; end it with: {LAB} down {name}")
        return 1
    print_row("all of it", time.monotonic() - started, f"{arguments.os} on {arguments.arch}")
    return 0


def print_row(what, seconds, found):
    """Print a line of the table: a check that passed, its time and its result."""
    print(f"ok  {what:30} {f'{seconds:.1f} s' if seconds is not None else '':>9}  {found}")
    sys.stdout.flush()


def ask(box, *argv):
    """Return the output of a command in the box."""
    return boxes.inside(box, *argv).stdout.strip()


def boot(name, arguments):
    """Boot the machine, and return it. It replaces the machine of the last call."""
    commands.setup()
    with lock("boxes"):
        boxes.remove(name)
    up = ["up", name, "--os", arguments.os, "--vm", "--arch", arguments.arch, "--no-converge"]
    parsed = commands.parser().parse_args(up)
    commands.layers_for(parsed)
    started = time.monotonic()
    commands.up(parsed)
    seconds = time.monotonic() - started
    box = boxes.load(name)
    kernel, megabytes = ask(box, "uname", "-rm"), memory_figures(box)["MemTotal"]
    print_row("boots", seconds, f"Linux {kernel}, {ask(box, 'nproc')} cores, {megabytes} MB")
    ask(box, "sh", "-c", WATCH_MEMORY)
    return box


def memory_figures(box):
    """Return the box's /proc/meminfo in MB."""
    lines = ask(box, "cat", "/proc/meminfo").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines}


def applied(box):
    """Apply the formula; return its states, those with changes, and the time in seconds."""
    result, seconds = converging.apply(box)
    if not converging.report(result, seconds, False):
        raise LabError("the relay did not converge")
    states = list(result.values())
    return states, [state for state in states if state.get("changes")], seconds


def converge(box):
    """Check that every state succeeds."""
    say("salt-call --local state.apply chatmail")
    states, changed, seconds = applied(box)
    converging.publish_keys(box)
    print_row(
        "converges", seconds, f"{len(states)} states succeeded, {len(changed)} changed something"
    )


def converge_again(box):
    """Check that a second run changes nothing."""
    say("salt-call --local state.apply chatmail, a second time")
    states, changed, seconds = applied(box)
    if changed:
        names = ", ".join(state.get("__id__", state.get("name")) for state in changed)
        raise LabError(f"the second converge changed something: {names}")
    print_row("converges again", seconds, f"{len(states)} states succeeded, changed=0")


def in_force(box):
    """Check that no unit failed, the kernel does what it is told to do, and mail works."""
    failed = ask(box, "systemctl", "list-units", "--failed", "--plain", "--no-legend")
    if failed:
        raise LabError(f"units of {box.name} failed: {failed}")
    print_row("no unit failed", None, f"systemd is {state_of_systemd(box)}")
    limits(box)
    apparmor(box)
    cpu_weight(box)
    started = time.monotonic()
    took = demo.selftest(box.domain, SELFTEST_TIMEOUT)["seconds"]
    print_row("a message gets through", time.monotonic() - started, f"in {took} s, seen in IDLE")
    memory(box)


def state_of_systemd(box):
    """Return systemd's state of the whole machine."""
    return boxes.inside(box, "systemctl", "is-system-running", check=False).stdout.strip()


def limits(box):
    """Check that each kernel limit is at least the value in the formula's file."""
    lines = [line for line in ask(box, "cat", SYSCTLS).splitlines() if " = " in line]
    if not lines:
        raise LabError(f"{SYSCTLS} sets nothing")
    found = []
    for line in lines:
        key, _, wanted = line.partition(" = ")
        value = ask(box, "cat", f"/proc/sys/{key.replace('.', '/')}")
        if int(value) < int(wanted):
            raise LabError(f"{key} is {value}, but {SYSCTLS} says {wanted}")
        found.append(f"{key.rpartition('.')[2]} {value}")
    print_row("kernel limits are in force", None, ", ".join(found))


def apparmor(box):
    """Check that AppArmor confines unbound, and that unbound answers."""
    if boxes.inside(box, "aa-enabled", "--quiet", check=False).returncode != 0:
        raise LabError("AppArmor is not enabled in this kernel")
    pid = ask(box, "systemctl", "show", "--property=MainPID", "--value", "unbound")
    confined = ask(box, "cat", f"/proc/{pid}/attr/current")
    if not confined.endswith("(enforce)"):
        raise LabError(f"AppArmor does not confine unbound: it is {confined}")
    # resolv.conf names unbound, so only unbound can answer for this name.
    addresses = ask(box, "getent", "ahostsv4", box.domain)
    if box.ip not in addresses:
        raise LabError(f"unbound does not find {box.domain}: {addresses or 'no answer'}")
    refused = denials(box)
    print_row("AppArmor confines unbound", None, f"{confined}, which answers; {refused}")


def denials(box):
    """Return in words what AppArmor has refused since the boot."""
    found = set()
    for line in kernel_log(box).splitlines():
        if 'apparmor="DENIED"' in line:
            fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
            what = fields.get("capname") or fields.get("name", "")
            found.add(f"{fields.get('profile')} {fields.get('operation')} {what}".replace('"', ""))
    return f"refused: {'; '.join(sorted(found))}" if found else "nothing refused"


def cpu_weight(box):
    """Check that systemd and the kernel give chatmail-filter the CPU weight of its unit.

    The check is here because a container of the lab may have no control groups of its own.
    """
    shown = ask(box, "systemctl", "show", "--property=CPUWeight,ControlGroup", "chatmail-filter")
    unit = dict(line.split("=", 1) for line in shown.splitlines())
    file = f"/sys/fs/cgroup{unit['ControlGroup']}/cpu.weight"
    weights = {"systemctl show": unit["CPUWeight"], file: ask(box, "cat", file)}
    for source, weight in weights.items():
        if weight != FILTER_WEIGHT:
            raise LabError(
                f"{source}: chatmail-filter has CPU weight {weight}, not {FILTER_WEIGHT}"
            )
    print_row("the filter's CPU weight holds", None, f"{FILTER_WEIGHT} in {file}")


def reboot(box):
    """Check that the machine boots again."""
    say("reboot")
    started = time.monotonic()
    boxes.reboot(box)
    ask(box, "sh", "-c", WATCH_MEMORY)
    print_row("reboots", time.monotonic() - started, f"systemd is {state_of_systemd(box)}")


def memory(box):
    """Check that memory did not run out since the boot, and print the smallest available amount."""
    log = kernel_log(box)
    if "Out of memory" in log or "oom-kill" in log:
        raise LabError("the kernel ended processes because memory ran out")
    least = min(int(line) for line in ask(box, "cat", "/root/memory-available").split()) // 1024
    now = memory_figures(box)["MemAvailable"]
    print_row("memory suffices", None, f"{least} MB available at the worst moment, {now} MB now")


def kernel_log(box):
    """Return the kernel's messages since the boot."""
    return ask(box, "journalctl", "--quiet", "--dmesg", "--output=cat")


if __name__ == "__main__":
    sys.exit(main())
