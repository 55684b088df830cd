"""A key in the kernel
-------------------

What stands behind a ``secret_keyring``: a key in the user's keyring (keyrings(7)), by
its serial number.
"""

from __future__ import annotations

import ctypes
import os

from ..errors import PeerMissing
from .peer import Peer

__all__ = ["SecretKey"]

# add_key(2) and keyctl(2) have no function in the C library; the numbers are those of
# <asm/unistd.h>, and of <asm-generic/unistd.h> for all other machines.
_NUMBERS = {"x86_64": (248, 250), "ppc64le": (269, 271)}
_GENERIC = (217, 219)

# <linux/keyctl.h>
_USER_KEYRING = -4
_SETPERM, _UNLINK, _SET_TIMEOUT = 5, 9, 15

# KEY_POS_ALL and KEY_USR_ALL of <linux/key.h>: QEMU need not possess the key to read it.
_PERMISSIONS = 0x3F3F0000

# The kernel forgets the key after so many seconds, should nobody take it back.
_LIFETIME_S = 600

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def _call(*arguments: object) -> int:
    result = int(_syscall(*arguments))
    if result < 0:
        reason = os.strerror(ctypes.get_errno())
        raise PeerMissing(f"needs a key in the kernel's keyring ({reason})")
    return result


def _keyctl(operation: int, key: int, value: int) -> int:
    number = _NUMBERS.get(os.uname().machine, _GENERIC)[1]
    words = (ctypes.c_long(word) for word in (number, operation, key, value))
    return _call(*words)


class SecretKey(Peer):
    """A key of the type ``user``; ``path`` is its serial number.

    :raises PeerMissing: the kernel has no keyrings, or lets nobody use them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._serial = 0
        try:
            # Of two keys with one name in a keyring the second replaces the first.
            name = self.directory.name.encode()
            number = _NUMBERS.get(os.uname().machine, _GENERIC)[0]
            data = b"secret"
            self._serial = _call(
                ctypes.c_long(number),
                *(b"user", name, data, ctypes.c_size_t(len(data))),
                ctypes.c_long(_USER_KEYRING),
            )
            _keyctl(_SETPERM, self._serial, _PERMISSIONS)
            _keyctl(_SET_TIMEOUT, self._serial, _LIFETIME_S)
        except BaseException:
            self.close()
            raise
        self.path = str(self._serial)

    def close(self) -> None:
        serial, self._serial = self._serial, 0
        try:
            if serial:
                _keyctl(_UNLINK, serial, _USER_KEYRING)
        except PeerMissing:
            pass  # it has gone by itself
        finally:
            super().close()
