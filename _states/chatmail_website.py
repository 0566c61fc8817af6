"""The web pages, built on the machine by `chatmail/website/files/build.py`.

The program runs under Debian's own Python, since Salt's has no Markdown. It compares what it
builds with what is there: whatever made a page differ, be it a setting, a source, the operator's
`www_folder` or somebody's edit in the web root, is found.
"""

import contextlib
import json
import os

from salt.exceptions import SaltException

__virtualname__ = "chatmail_website"

PYTHON = "/usr/bin/python3"


def __virtual__():
    return __virtualname__


def built(name, program, settings):
    """Ensure that a directory holds the pages that the settings and their sources make.

    name: the web root, which will hold nothing else.
    program: path of `build.py` on the minion; under test=True it may be missing still.
    settings: the relay's settings, as `chatmail/settings.py` resolves them.
    The changes list the files added, changed and removed. Fails with the program's own words,
    and then leaves the pages as they are.

    .. code-block:: yaml

        website pages:
          chatmail_website.built:
            - name: /var/www/chatmail
            - program: /usr/local/lib/chatmail-website/build.py
            - settings: {{ relay | json }}
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "The pages are up to date."}
    with _failing(ret):
        test = __opts__["test"]
        if test and not os.path.exists(program):
            return _would_build(ret, "is not installed yet")
        answer = __salt__["cmd.run_all"](
            [PYTHON, program, *(["--check"] if test else []), name],
            stdin=json.dumps(settings),
            # Salt would make the two characters `\n` of JSON into a line's end.
            stdin_raw_newlines=True,
            python_shell=False,
        )
        if answer["retcode"] != 0 and test and "ModuleNotFoundError" in answer["stderr"]:
            return _would_build(ret, "lacks a package that this run would install")
        if answer["retcode"] != 0:
            error = answer["stderr"] or answer["stdout"]
            ret.update(result=False, comment=f"The pages were left as they are. {error}")
            return ret
        told = json.loads(answer["stdout"])
        ret["changes"] = {kind: files for kind, files in told.items() if files}
        if ret["changes"] and test:
            ret.update(result=None, comment="Pages would be built.")
        elif ret["changes"]:
            ret["comment"] = "Pages were built."
    return ret


def mod_watch(name, program, settings, sfun=None, **_kwargs):
    """Build again, since a source has changed; a dry run cannot read the new source, and says so.

    The arguments are those of `built`.

    .. code-block:: yaml

        website pages:
          chatmail_website.built:
            - name: /var/www/chatmail
            - program: /usr/local/lib/chatmail-website/build.py
            - settings: {{ relay | json }}
            - watch:
              - file: website sources
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    with _failing(ret):
        if __opts__["test"]:
            ret = _would_build(ret, "has sources that this run would change")
        else:
            ret = built(name, program, settings)
    return ret


def _would_build(ret, reason):
    """Return the answer of a dry run that cannot ask the program itself."""
    changes = {"pages": {"old": "as they are", "new": "built"}}
    comment = f"The pages would be built: their program {reason}."
    return {**ret, "result": None, "changes": changes, "comment": comment}


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
