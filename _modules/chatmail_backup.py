"""Write the keys and accounts of this relay into an encrypted archive, and bring them back.

The package `chatmaild.backup` does the work. No function returns a key, a password, its hash or an
address. docs/backup.md has the whole procedure.
"""

__virtualname__ = "chatmail_backup"


def __virtual__():
    return __virtualname__


def create(path=None, mail=False, keep=None):
    """Write an archive that the owners of `backup_recipients` can open.

    path: an absolute path of a new file, or a directory. By default it is a new file in
        `/var/backups/chatmail/archives`, whose name has the mail domain and the time in UTC.
    mail: True adds the mail of all addresses.
    keep: the number of archives that stay in the directory; older ones with such a name, of this
        mail domain, are removed. By default all stay.
    Returns {"path", "sha256", "bytes", "recipients", "invitations", "addresses", "messages" with
    `mail`, "removed"}; all but the first two are numbers. The archive has the permissions 0600, and
    appears when it is complete. Beside it is a file that ends in `.sha256`. Raises
    CommandExecutionError without recipients, when age fails, and while another backup runs, and
    SaltInvocationError for a path that exists.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_backup.create keep=7
    """
    arguments = {"path": path, "mail": mail, "keep": keep, "pillar": __pillar__.get("chatmail")}
    return _ask("create", **arguments)


def verify(path, sha256=None):
    """Compare an archive with its digest. No private key is needed.

    path: the archive. sha256: the digest that `create` returned; by default that of the file beside
        the archive, whose name ends in `.sha256`.
    Returns {"path", "sha256", "bytes"}. It proves that the archive is, byte for byte, the one of
    which the digest was made: nothing is damaged, missing or exchanged. It does not prove that you
    can open the archive; `restore` with `test=True` does. Raises CommandExecutionError when the
    digest differs or is missing, and for a file that is no archive.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_backup.verify /root/chat.example.org-20261122T031700Z.age
    """
    return _ask("verify", path=path, sha256=sha256)


def restore(path, identity_file, sha256=None, merge=False, test=None):
    """Bring an archive back on a converged relay that has no address yet.

    path: the archive. identity_file: the path of an age or ssh private key without a passphrase.
    sha256: as for `verify`. Without a digest, age alone checks that the archive is complete.
    merge: True allows addresses here. They stay as they are, and those that are missing come back.
    test: True only checks the archive and this machine; by default Salt's own `test` setting.
    Returns {"created": the archive's time, "addresses", "kept": addresses that were here already,
    "invitations", "files": the keys, "settings_differ": names of settings that had another value}.
    While a restore is not finished, nobody can create an address. After an interruption, run the
    same restore again. Raises CommandExecutionError, with nothing changed, for an archive that is
    damaged, not ours, of another domain or of another format, and on a relay with addresses.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_backup.restore /root/backup.age /run/backup-key.txt
    """
    if test is None:
        test = __opts__.get("test", False)
    arguments = {"path": path, "identity_file": identity_file, "sha256": sha256}
    return _ask("restore", **arguments, merge=merge, test=bool(test))


def _ask(command, **arguments):
    return __salt__["chatmail_program.call"]("backup", command, arguments)
