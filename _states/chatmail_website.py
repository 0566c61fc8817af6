"""The web pages, built on the machine by `chatmail/website/files/build.py`.

The program runs under Debian's own Python, because Salt's has no Markdown. It builds all pages and
compares them with the files in the web root. So it finds every difference: a changed setting or
source, a change in the operator's `www_folder`, and an edit in the web root. This takes a fifth of
a second, so a digest of all of these tells whether there is anything to build.
"""

import contextlib
import hashlib
import json
import os

from salt.exceptions import SaltException

__virtualname__ = "chatmail_website"

PYTHON = "/usr/bin/python3"
# The file beside the web root that has the digest after the last build.
BUILT = ".built"
# It changes with each package: another Markdown may make other pages.
PACKAGES = "/var/lib/dpkg/status"


def __virtual__():
    return __virtualname__


def built(name, program, settings):
    """Ensure that the web root has the pages that follow from the settings and the sources.

    name: the web root, which will hold nothing else.
    program: path of `build.py` on the minion. Under test=True it may still be missing.
    settings: the relay's settings, as `chatmail/settings.py` resolves them.
    The changes list the files added, changed and removed. If the program fails, the state fails
    with its message, and the pages stay as they are.

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
        last = _read(name + BUILT)
        if last and last == _digest(name, program, settings):
            return ret
        answer = __salt__["cmd.run_all"](
            [PYTHON, program, *(["--check"] if test else []), name],
            stdin=json.dumps(settings),
            # Otherwise Salt would turn the two characters `\n` in the JSON into a newline.
            stdin_raw_newlines=True,
            python_shell=False,
        )
        if answer["retcode"] != 0 and test and "ModuleNotFoundError" in answer["stderr"]:
            return _would_build(ret, "lacks a package that this run would install")
        if answer["retcode"] != 0:
            error = answer["stderr"] or answer["stdout"]
            ret.update(result=False, comment=f"The pages were left as they are. {error}")
            return ret
        difference = json.loads(answer["stdout"])
        ret["changes"] = {kind: files for kind, files in difference.items() if files}
        if not test:
            with open(name + BUILT, "w", encoding="ascii") as stream:
                stream.write(_digest(name, program, settings))
        if ret["changes"] and test:
            ret.update(result=None, comment="Pages would be built.")
        elif ret["changes"]:
            ret["comment"] = "Pages were built."
    return ret


def mod_watch(name, program, settings, sfun=None, **_kwargs):
    """Build the pages again, because a source has changed. A dry run cannot read the new source.

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


def _read(path):
    """Return the text of a file, None if it is missing."""
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def _digest(name, program, settings):
    """Return a digest of the pages, and of all that they follow from."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(str(os.stat(PACKAGES).st_mtime_ns).encode())
    own = settings["www_folder"]
    for top in (os.path.dirname(program), name, *([own] if own and own != "disabled" else [])):
        for folder, folders, files in os.walk(top):
            folders.sort()
            for path in sorted(os.path.join(folder, each) for each in folders + files):
                digest.update(f"{path} {os.lstat(path).st_mode}\0".encode())
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as stream:
                        digest.update(hashlib.sha256(stream.read()).digest())
    return digest.hexdigest()


def _would_build(ret, reason):
    """Return the result of a dry run in which the program cannot run."""
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
