#!/usr/bin/python3
"""`make relay`: boot a throwaway relay, show that it works, and print an account on it."""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import boxes
import commands
import converging
import host
import images
from host import LabError, lock, say

NAME = "relay"
LAB = Path(__file__).with_name("lab")


def main():
    """Run all steps; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--os", choices=sorted(images.SUITES), default="debian-13")
    started = time.monotonic()
    try:
        box, converged = converged_box(parser.parse_args().os)
        account = selftest(box.domain)
    except LabError as error:
        say(f"make relay: {error}")
        return 1
    show(box, account, converged, time.monotonic() - started)
    return 0


def converged_box(release):
    """Boot and converge a box. It replaces the box of the last call.

    Returns the box and the time of the converge in seconds.
    """
    commands.setup()
    if not shutil.which("qrencode"):
        host.install_packages(["qrencode"])
    with lock("boxes"):
        boxes.remove(NAME)
    arguments = ["up", NAME, "--os", release, "--no-converge"]
    commands.up(commands.parser().parse_args(arguments))
    box = boxes.load(NAME)
    say("salt-call --local state.apply chatmail")
    started = time.monotonic()
    if converging.converge(box) != 0:
        raise LabError(f"the relay did not converge; look inside with: {LAB} run {NAME}")
    return box, time.monotonic() - started


def selftest(domain, timeout=30):
    """Make an account on the relay and send a message through the relay.

    timeout: seconds for each step; the default is for machines that are not emulated.
    Returns the output of selftest.py.
    """
    say("self-test: two accounts, one encrypted message")
    program = Path(__file__).with_name("selftest.py")
    command = ["/usr/bin/python3", program, domain, timeout]
    done = host.run(LAB, "client", "--", *command, check=False)
    if done.returncode != 0:
        raise LabError(f"the self-test failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def show(box, account, converged, total):
    """Print all that the user needs to know."""
    # A client on this machine does not ask the lab's DNS: the link names the address, which the
    # certificate does not.
    link = account.get("dclogin_url") or f"dclogin:{account['email']}?p={account['password']}&v=1"
    if "&ih=" not in link:
        link = link.replace("&v=1", f"&v=1&ih={box.ip}&sh={box.ip}&ic=3")
    print(f"""
The relay works: a message went from one account to another in {account["seconds"]} s.

  domain   {box.domain}
  address  {box.ip}, from this machine only
  system   {box.release}
  time     {total:.0f} s, {converged:.0f} s of them for salt-call --local state.apply chatmail
  account  {link}
""")
    sys.stdout.flush()
    subprocess.run(["qrencode", "-t", "UTF8", link], check=False)
    print(f"""
  look inside   {LAB} run {NAME}
  change it     edit the formula, then {LAB} converge {NAME}
  as a client   {LAB} client -- curl -sk -X POST https://{box.domain}/new
  stop it       {LAB} down {NAME}
""")


if __name__ == "__main__":
    sys.exit(main())
