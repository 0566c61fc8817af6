"""The same box with a part of it switched off: what Dovecot and Postfix reach by themselves.

Both change configuration files of the box, and put the files back afterwards.
"""

import contextlib
import re

# Plugins of Dovecot that compress mail and that tell of it, in 2.3 and in 2.4.
LEFT_OUT = (
    "zlib",
    "mail_compress",
    "mail_lua",
    "notify",
    "push_notification",
    "push_notification_lua",
)
LOGIN_BLOCK = re.compile(r"^(?:passdb|userdb)\b[^{\n]*\{\n.*?^\}\n", re.M | re.S)
MILTER = re.compile(r"^\s+-o smtpd_milters=.*\n", re.M)
DOVECOT = "/etc/dovecot/dovecot.conf"
MASTER = "/etc/postfix/master.cf"

STATIC_2_3 = """\
passdb {{
  driver = static
  args = {password}
}}
userdb {{
  driver = static
  args = uid=vmail gid=vmail home={mailboxes}/%u
}}
"""
STATIC_2_4 = """\
passdb static {{
  {password}
}}
userdb static {{
  fields {{
    uid = vmail
    gid = vmail
    home = {mailboxes}/%{{user}}
  }}
}}
"""


def is_2_4(text):
    """Return whether a dovecot.conf is for 2.4."""
    return "dovecot_config_version" in text


@contextlib.contextmanager
def changed(machine, texts, command):
    """Run the block with other texts in files of the box.

    texts: {path: text}. command: a shell line after which the services use the files.
    """
    before = {path: machine.path(path).read_text() for path in texts}

    def write(files):
        for path, text in files.items():
            machine.path(path).write_text(text)
        machine.run(command)

    try:
        write(texts)
        yield
    finally:
        write(before)


def with_static_passdb(text, mailboxes, stored=None):
    """Return a dovecot.conf whose passdb and userdb are static, so that no Lua runs.

    stored: the hash that all passwords must fit, None for no check. Raises RuntimeError when the
    text has not one passdb and one userdb.
    """
    if (found := len(LOGIN_BLOCK.findall(text))) != 2:
        raise RuntimeError(f"{DOVECOT} has {found} blocks passdb and userdb, expected 2")
    if is_2_4(text):
        password = f"password = {stored}" if stored else "fields {\n    nopassword = yes\n  }"
        static = STATIC_2_4
    else:
        password = f"password={stored}" if stored else "nopassword=y"
        static = STATIC_2_3
    return LOGIN_BLOCK.sub("", text) + static.format(password=password, mailboxes=mailboxes)


def static_passdb(machine, stored=None):
    """Run the block with a static passdb in the box; see with_static_passdb()."""
    text = with_static_passdb(machine.path(DOVECOT).read_text(), machine.mailboxes, stored)
    return changed(machine, {DOVECOT: text}, "systemctl restart dovecot")


def without_plugins(text, plugins):
    """Return a dovecot.conf that delivers without compression and push.

    plugins: the names of the plugins for deliveries, as doveconf shows them. Later settings win.
    """
    if is_2_4(text):
        lines = ["  mail_plugins {", *(f"    {name} = no" for name in LEFT_OUT), "  }"]
    else:
        lines = [f"  mail_plugins = {' '.join(name for name in plugins if name not in LEFT_OUT)}"]
    return text + "\n".join(["protocol lmtp {", *lines, "}", ""])


def without_milters(text):
    """Return a master.cf whose smtpd services ask no filter. Raises RuntimeError without one."""
    text, found = MILTER.subn("", text)
    if not found:
        raise RuntimeError(f"{MASTER} has no line `-o smtpd_milters=`, so nothing is compared")
    return text


def plain_chain(machine):
    """Run the block without filter, push and compression in the box."""
    plugins = machine.run("doveconf -h -f protocol=lmtp mail_plugins").split()
    texts = {
        DOVECOT: without_plugins(machine.path(DOVECOT).read_text(), plugins),
        MASTER: without_milters(machine.path(MASTER).read_text()),
    }
    return changed(machine, texts, "systemctl restart dovecot postfix")
