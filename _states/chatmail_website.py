"""The web pages, built on the machine by `chatmail/website/files/build.py`.

The program runs under Debian's own Python, since Salt's has no Markdown. It compares what it
builds with what is there: whatever made a page differ, be it a setting, a source, the operator's
`www_folder` or somebody's edit in the web root, is found.
"""

import json
import os

PYTHON = "/usr/bin/python3"


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
    test = __opts__["test"]
    if test and not os.path.exists(program):
        return _would_build(name, "is not installed yet")
    command = [PYTHON, program, *(["--check"] if test else []), name]
    answer = __salt__["cmd.run_all"](
        # Salt would make the two characters `\n` of JSON into a line's end.
        command,
        stdin=json.dumps(settings),
        stdin_raw_newlines=True,
        python_shell=False,
    )
    if answer["retcode"] != 0:
        if test and "ModuleNotFoundError" in answer["stderr"]:
            return _would_build(name, "lacks a package that this run would install")
        error = answer["stderr"] or answer["stdout"]
        comment = f"The pages were left as they are. {error}"
        return {"name": name, "result": False, "changes": {}, "comment": comment}
    changes = {kind: files for kind, files in json.loads(answer["stdout"]).items() if files}
    if not changes:
        return {"name": name, "result": True, "changes": {}, "comment": "The pages are up to date."}
    result, verb = (None, "would be") if test else (True, "were")
    return {"name": name, "result": result, "changes": changes, "comment": f"Pages {verb} built."}


def mod_watch(name, program, settings, sfun=None, **_kwargs):
    """Build again since a source changed; a dry run cannot read the new source, and says so."""
    if __opts__["test"]:
        return _would_build(name, "has sources that this run would change")
    return built(name, program, settings)


def _would_build(name, reason):
    """Return the answer of a dry run that cannot ask the program itself."""
    return {
        "name": name,
        "result": None,
        "changes": {"pages": {"old": "as they are", "new": "built"}},
        "comment": f"The pages would be built: their program {reason}.",
    }
