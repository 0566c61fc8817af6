"""Compiles the objects, and puts each in place only if Dovecot's program would use it."""

import hashlib
import os
import re
import struct
import subprocess
import tempfile
from pathlib import Path

from chatmaild.common import atomic_files
from chatmaild.common.errors import OperatorError
from chatmaild.dovecot_objects import objects
from chatmaild.dovecot_objects.objects import Object

# What the objects were made of and checked with, as sha256sum(1) reads it. The state of the part
# compares it, to see whether this must run again.
CHECKED = "checked"
# elf(5): the first bytes of a file for 64 bits, little-endian; where its header has the position
# and the number of the program headers; the kind and flags (readable, writable) of the stack's.
ELF64 = b"\x7fELF\x02\x01"
POSITION, NUMBER, HEADER_SIZE = 32, 56, 56
GNU_STACK, READ_WRITE = 0x6474E551, 6


def build() -> None:
    """Compile each object, check it, and put it in place.

    Raises OperatorError with the reason of each object that does not compile or does not fit this
    Dovecot. There is no such object then, and its program runs as Debian ships it.
    """
    checked = objects.FOLDER / CHECKED
    checked.unlink(missing_ok=True)
    faults, files = [], set()
    for each in objects.OBJECTS:
        try:
            build_one(each)
        except OperatorError as error:
            each.file.unlink(missing_ok=True)
            faults.append(f"{each.program}: {error}. Until then, {each.without}")
        files |= {each.source, each.file, *each.binaries}
    if faults:
        raise OperatorError(". ".join(faults))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n" for path in sorted(files)]
    atomic_files.replace(checked, "".join(lines), mode=0o644)


def build_one(each: Object) -> None:
    """Compile one object, check it, and put it in place. Raises OperatorError with the reason."""
    with tempfile.TemporaryDirectory(prefix=".new-", dir=objects.FOLDER) as folder:
        new = Path(folder) / each.file.name
        compile_object(each.source, new)
        check_calls(each, new)
        new.chmod(0o644)
        new.replace(each.file)


def compile_object(source: Path, new: Path) -> None:
    """Compile a source file into a shared object. Raises OperatorError with what tcc said."""
    command = ["tcc", "-shared", "-nostdlib", "-o", str(new), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OperatorError(
            "expected the compiler tcc, found none. Install Debian's package tcc"
        ) from None
    if done.returncode != 0:
        raise OperatorError(f"tcc could not compile {source}: {done.stderr.strip()}")
    new.write_bytes(forbid_executable_stack(new.read_bytes()))


def forbid_executable_stack(content: bytes) -> bytes:
    """Return a shared object that leaves the stack of its process without permission to execute.

    tcc writes no program header about the stack, and the dynamic linker then makes the stack
    executable. There is no room for one more header where they are, so all of them move to the end.
    Raises OperatorError for an object of a machine that has not 64 bits.
    """
    if not content.startswith(ELF64):
        raise OperatorError("expected a machine of 64 bits, found another one")
    [start] = struct.unpack_from("<Q", content, POSITION)
    [count] = struct.unpack_from("<H", content, NUMBER)
    headers = content[start : start + count * HEADER_SIZE]
    stack = struct.pack("<IIQQQQQQ", GNU_STACK, READ_WRITE, 0, 0, 0, 0, 0, 16)
    new = bytearray(content + b"\0" * (-len(content) % 8))
    struct.pack_into("<Q", new, POSITION, len(new))
    struct.pack_into("<H", new, NUMBER, count + 1)
    return bytes(new) + headers + stack


def check_calls(each: Object, new: Path) -> None:
    """Make sure that Dovecot's calls would reach the object. Raises OperatorError otherwise."""
    # The dynamic linker writes which function of which file a call goes to (ld.so(8)). The program
    # itself ends at once, because only Dovecot may start it.
    modules = [str(objects.DOVECOT / name) for name in each.modules]
    environment = os.environ | {
        "LD_DEBUG": "bindings",
        "LD_BIND_NOW": "1",
        "LD_PRELOAD": ":".join([str(new), *modules]),
    }
    done = subprocess.run(
        [objects.DOVECOT / each.program, "-V"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr
    for name, function in each.calls:
        caller = objects.DOVECOT / name
        binding = (
            rf"binding file {re.escape(str(caller))} .* to {re.escape(str(new))} .*`{function}'"
        )
        if not re.search(binding, said):
            raise OperatorError(
                f"expected {caller} to call {function}, found no such call. A newer release of the "
                "formula may fit this version of Dovecot"
            )
