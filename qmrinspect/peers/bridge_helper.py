"""A bridge helper
---------------

What QEMU's ``qemu-bridge-helper`` does, but for the bridge: it makes a tap interface,
sends its descriptor over the socket that it was given (``net_bridge_run_helper()``,
net/tap.c), and ends.  The interface goes when QEMU closes the descriptor.

It is run as a program, by QEMU, and needs nothing of the package.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import sys

__all__ = ["main", "open_tap"]

# <linux/if_tun.h>
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def open_tap() -> int:
    """Make a tap interface of a name that the kernel chooses; return its descriptor.

    :raises OSError: there is no ``/dev/net/tun``, or the privilege is lacking.
    """
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        # struct ifreq: a name of 16 bytes, and flags at the beginning of 24.
        request = struct.pack("16sH22x", b"qmr%d", _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(tap, _TUNSETIFF, request)
    except BaseException:
        os.close(tap)
        raise
    return tap


def main(arguments: list[str]) -> int:
    """Serve ``--use-vnet --fd=NUMBER --br=NAME``; return the exit status."""
    number = next(int(word[5:]) for word in arguments if word.startswith("--fd="))
    with socket.socket(fileno=number) as stream:
        tap = open_tap()
        rights = array.array("i", [tap])
        stream.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.close(tap)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
