"""The objects that programs of Dovecot load, and whether they are in use."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/usr/local/lib/chatmail/dovecot_objects")
DOVECOT = Path("/usr/lib/dovecot")


@dataclass(frozen=True)
class Object:
    """The object of one program of Dovecot.

    program: the name of the program, and of the object's files in FOLDER.
    calls: (file in DOVECOT, function): who must call which function of the object.
    modules: files in DOVECOT that the program loads only when it needs them.
    without: what is different while the program runs without the object.
    """

    program: str
    calls: tuple[tuple[str, str], ...]
    modules: tuple[str, ...]
    without: str

    @property
    def source(self) -> Path:
        """The C source."""
        return FOLDER / f"{self.program}.c"

    @property
    def file(self) -> Path:
        """While this file exists, each new process of the program loads it.

        chatmail/dovecot/files/with-object starts the program.
        """
        return FOLDER / f"{self.program}.so"

    @property
    def binaries(self) -> list[Path]:
        """The files of Dovecot that the object was checked with."""
        names = {self.program, "libdovecot.so.0", *self.modules, *(name for name, _ in self.calls)}
        return [DOVECOT / name for name in sorted(names)]


STORAGE, LOGIN = "libdovecot-storage.so.0", "libdovecot-login.so.0"
TLS = "modules/libssl_iostream_openssl.so"
IMAP = Object(
    program="imap",
    calls=(
        (STORAGE, "timeout_add_short"),
        (STORAGE, "timeout_remove"),
        ("libdovecot.so.0", "inotify_add_watch"),
        ("imap", "mailbox_watch_extract_notify_fd"),
    ),
    modules=(),
    without="a connected client hears of a message after half a second",
)
IMAP_HIBERNATE = Object(
    program="imap-hibernate",
    calls=(("libdovecot.so.0", "close"),),
    modules=(),
    without="an idle client hears of a message 4 to 20 ms later",
)
IMAP_LOGIN = Object(
    program="imap-login",
    calls=(
        (TLS, "BIO_new_bio_pair"),
        (TLS, "SSL_new"),
        (TLS, "SSL_free"),
        (LOGIN, "i_stream_create_fd_autoclose"),
        (LOGIN, "o_stream_create_fd"),
        (LOGIN, "pool_alloconly_create"),
    ),
    modules=(TLS,),
    without="an idle client takes half as much memory again, and keeps it when it leaves",
)
OBJECTS = (IMAP, IMAP_HIBERNATE, IMAP_LOGIN)


def tells_at_once() -> bool:
    """Return whether a connected client hears of a message at once, not after half a second."""
    return IMAP.file.exists()
