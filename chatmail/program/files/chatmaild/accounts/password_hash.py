"""The hash of a password by crypt(3) of libxcrypt, with which Dovecot verifies it.

Python 3.13 has no module for it, and python3-passlib takes 2 MB.
"""

import ctypes
import os

# The cost of `doveadm pw -s SHA512-CRYPT`: 1 to 3 ms. 0 is libxcrypt's own default, which has the
# same 5000 rounds (crypt(5)).
METHOD, ROUNDS = b"$6$", 0
# Sizes of crypt.h: CRYPT_GENSALT_OUTPUT_SIZE, and struct crypt_data.
SALT_SIZE, DATA_SIZE = 192, 32768

_library = ctypes.CDLL("libcrypt.so.1", use_errno=True)
_gensalt = _library.crypt_gensalt_rn
_gensalt.restype = ctypes.c_char_p
_gensalt.argtypes = [
    *(ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int),
    *(ctypes.c_char_p, ctypes.c_int),
]
_crypt = _library.crypt_rn
_crypt.restype = ctypes.c_char_p
_crypt.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]


def sha512_crypt(password: str) -> str:
    """Return the SHA512-CRYPT hash of a password with a new salt, such as `$6$salt$hash`.

    password: at most 511 bytes of UTF-8, none of them zero. Several threads may call this at once.
    Raises OSError when the library cannot make a hash.
    """
    # Without random bytes given, the library takes them from the kernel (crypt_gensalt(3)).
    salt = _gensalt(METHOD, ROUNDS, None, 0, ctypes.create_string_buffer(SALT_SIZE), SALT_SIZE)
    data = ctypes.create_string_buffer(DATA_SIZE)
    hashed = salt and _crypt(password.encode(), salt, data, DATA_SIZE)
    if not hashed:
        code = ctypes.get_errno()
        raise OSError(code, f"crypt(3) makes no hash: {os.strerror(code)}")
    return hashed.decode("ascii")
