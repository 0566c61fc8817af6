"""Debian's packages, without those that they recommend.

Each part of the relay names its packages. A run with many parts installs all of them at once: each
call of apt takes a second, and a first converge had eight of them.
"""

import contextlib

from salt.exceptions import CommandExecutionError, SaltException

__virtualname__ = "chatmail_package"

# The changes that `together` has made in this run, by package.
DONE = "chatmail_package.done"
# With this, systemctl does not talk to systemd (ENVIRONMENT.md of systemd). Debian's packages would
# let systemd read all units again, and try to start their services. That took a quarter of apt's
# CPU time on Debian 12, and a sixth on Debian 13.
START_NOTHING = {"SYSTEMD_OFFLINE": "1"}


def __virtual__():
    return __virtualname__


def together(name):
    """Ensure that the packages of all states `chatmail_package.installed` in this run are there.

    name: any text. Only the output shows it.
    If apt fails, the state warns: the parts then install their packages one by one, so only the
    part with the wrong package fails.

    .. code-block:: yaml

        packages of all parts:
          chatmail_package.together:
            - require:
              - file: drop-in of nginx
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "All packages are there."}
    with _failing(ret):
        ours = [low for low in __lowstate__ if low["state"] == __virtualname__]
        missing = _missing([each for low in ours for each in low.get("pkgs", [])])
        if missing and __opts__["test"]:
            _announce(ret, missing)
        elif missing:
            try:
                ret["changes"] = _install(missing)
                ret["comment"] = f"{len(missing)} packages were installed."
            except CommandExecutionError as error:
                ret["warnings"] = [f"Not all packages could be installed at once: {error}"]
            __context__[DONE] = ret["changes"]
    return ret


def installed(name, pkgs):
    """Ensure that packages are there.

    name: any text. Only the output shows it. pkgs: names of packages.
    Changes are those of these packages, also when `together` has installed them in this run. So a
    service that watches this state starts again.

    .. code-block:: yaml

        nginx packages:
          chatmail_package.installed:
            - pkgs: [nginx, libnginx-mod-stream]
            - require:
              - chatmail_package: packages of all parts
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "All packages are there."}
    with _failing(ret):
        missing = _missing(pkgs)
        if missing and __opts__["test"]:
            _announce(ret, missing)
            return ret
        done = __context__.get(DONE, {})
        ret["changes"] = {each: done[each] for each in pkgs if each in done}
        if missing:
            ret["changes"] = {**ret["changes"], **_install(missing)}
        if ret["changes"]:
            ret["comment"] = f"These packages were installed: {', '.join(pkgs)}."
    return ret


def _missing(pkgs):
    """Return the packages that are not installed, each once."""
    there = __salt__["pkg.list_pkgs"]()
    return sorted(set(pkgs) - set(there))


def _announce(ret, missing):
    """Put into the result of a dry run what would be installed."""
    ret["changes"] = {each: {"old": "", "new": "installed"} for each in missing}
    ret.update(result=None, comment=f"These packages would be installed: {', '.join(missing)}.")


def _install(pkgs):
    """Install packages; return {package: {"old": version, "new": version}}."""
    changes = __salt__["pkg.install"](
        pkgs=pkgs, refresh=True, install_recommends=False, env=START_NOTHING
    )
    if left := _missing(pkgs):
        raise CommandExecutionError(
            f"apt has not installed {', '.join(left)}, and gave no error. Look at: apt-get install "
            f"{' '.join(left)}"
        )
    return changes


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
