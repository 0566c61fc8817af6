"""Units of systemd: running or stopped.

Salt's own service states ask systemd five times about each unit, which took a fifth of a converge
without a change. These ask once about all units of the run, until something changes. A unit that
does not exist counts as stopped, so a dry run announces no change for it.
"""

import contextlib

from salt.exceptions import CommandExecutionError, SaltException

__virtualname__ = "chatmail_service"


def __virtual__():
    return __virtualname__


def running(name, reload=False):
    """Ensure that a unit runs, and starts with the machine if it can be enabled.

    name: the unit, such as `nginx` or `chatmail-expire.timer`.
    reload: when a watched state changes, reload the unit. By default the unit is restarted.
    Changes are `now` (systemd's ActiveState) and `at boot` (UnitFileState). The state fails if the
    unit does not run after its start, and the unit is started only once.

    .. code-block:: yaml

        nginx runs:
          chatmail_service.running:
            - name: nginx
            - reload: True
            - watch:
              - file: nginx configuration
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} runs."}
    with _failing(ret):
        now, boot = _look(name)
        if boot == "disabled":
            _change(ret, "at boot", boot, "enabled", "service.enable")
        if not _is_active(now):
            # After a failed start, Salt would call `mod_watch`, which would start the unit again.
            # That is right only if this start waited for one that had begun with the old files.
            ret["skip_watch"] = now != "activating"
            _change(ret, "now", now, "active", "service.start")
    return ret


def reloaded(name):
    """Ensure that a unit knows its files: it is reloaded when a watched state changes.

    name: the unit. A unit that does not run stays as it is.

    .. code-block:: yaml

        postfix reads its tables again:
          chatmail_service.reloaded:
            - name: postfix
            - watch:
              - file: postfix tables
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    with _failing(ret):
        ret["comment"] = f"{name} is {_look(name)[0]}."
    return ret


def dead(name):
    """Ensure that a unit does not run, also not at the next boot.

    name: the unit. It may be missing. Changes are those of `running`.

    .. code-block:: yaml

        nginx is stopped:
          chatmail_service.dead:
            - name: nginx
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} does not run."}
    with _failing(ret):
        now, boot = _look(name)
        # A unit that failed and waits for its next start is "activating".
        if now not in ("inactive", "failed"):
            _change(ret, "now", now, "inactive", "service.stop")
        if boot == "enabled":
            _change(ret, "at boot", boot, "disabled", "service.disable")
    return ret


def mod_watch(name, sfun=None, reload=False, **_kwargs):
    """Restart or reload a unit, because a watched state has changed.

    The arguments are those of `running`. sfun: the function of the state that watches.

    .. code-block:: yaml

        nginx runs:
          chatmail_service.running:
            - name: nginx
            - watch:
              - file: nginx configuration
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} does not run."}
    with _failing(ret):
        now = _look(name)[0]
        if sfun != "dead" and _is_active(now):
            do = "reload" if reload or sfun == "reloaded" else "restart"
            _change(ret, "now", now, f"active, after a {do}", f"service.{do}")
        elif sfun == "running":
            # The unit has ended since `running` saw it. Salt takes the result of this function.
            _change(ret, "now", now, "active", "service.start")
    return ret


def _look(name):
    """Return a unit's ActiveState and UnitFileState; a unit that is missing has "" as the latter.

    While no state of this run has changed anything, one question about all units of the run is
    enough. In a dry run, the states are those that the run would have made so far.
    """
    if any(each.get("changes") for each in __running__.values()):
        now, boot = _ask([name])[name]
    else:
        found = __context__.setdefault(__virtualname__, {})
        if name not in found:
            ours = [low["name"] for low in __lowstate__ if low["state"] == __virtualname__]
            found.update(_ask(sorted({name, *ours})))
        now, boot = found[name]
    for tag, state in __running__.items() if __opts__["test"] else ():
        if tag.startswith(f"{__virtualname__}_|-") and state["name"] == name:
            new = {what: each["new"] for what, each in state["changes"].items()}
            # After a reload, the text is "active, after a reload".
            now, boot = new.get("now", now).partition(",")[0], new.get("at boot", boot)
    return now, boot


def _ask(names):
    """Return (ActiveState, UnitFileState) of each unit by its name.

    Raises CommandExecutionError when systemd does not answer.
    """
    command = ["systemctl", "show", "--property=ActiveState,UnitFileState", *names]
    answer = __salt__["cmd.run_all"](command, python_shell=False)
    # systemctl writes a paragraph for each unit, in the order of the names.
    units = [
        dict(line.split("=", 1) for line in paragraph.splitlines())
        for paragraph in answer["stdout"].split("\n\n")
        if "ActiveState=" in paragraph
    ]
    if answer["retcode"] != 0 or len(units) != len(names):
        raise CommandExecutionError(
            f"{', '.join(names)}: systemd does not tell the state of these units: "
            f"{answer['stderr'] or answer['stdout']}"
        )
    states = [(each["ActiveState"], each.get("UnitFileState", "")) for each in units]
    return dict(zip(names, states, strict=True))


def _is_active(now):
    return now in ("active", "reloading")


def _change(ret, what, old, new, function):
    """Change a unit, or say that it would be changed; make the state fail if it is not so then."""
    name = ret["name"]
    done = function.removeprefix("service.")
    if __opts__["test"]:
        ret["changes"][what] = {"old": old, "new": new}
        ret.update(result=None, comment=f"{name} would be changed: {', '.join(ret['changes'])}.")
        return
    # Salt raises for a failed start or restart, and returns False for the others.
    succeeded = __salt__[function](name)
    if what == "now":
        now = _ask([name])[name][0]
        succeeded = succeeded and _is_active(now) == new.startswith("active")
    if not succeeded:
        raise CommandExecutionError(
            f"systemctl {done} {name} has failed. What systemd says: journalctl -u {name}"
        )
    ret["changes"][what] = {"old": old, "new": new}
    ret["comment"] = f"{name} was changed: {', '.join(ret['changes'])}."


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
