"""I/O channels and who holds them
--------------------------------

QIO objects are never in the QOM tree.  Besides the fields of character devices, what
holds them are other channels, GLib's event sources, and the structures of the VNC and
NBD servers and of netdevs, which are no objects.
"""

from __future__ import annotations

from .record import Around, Holder, Kind, OfType, Reader

__all__ = ["HOLDERS", "KINDS"]

KINDS = (
    Kind(
        "channel",
        "a channel on top of another holds the one below",
        "io/channel-tls.c qio_channel_tls_new_server, io/channel-websock.c",
    ),
    Kind(
        "listener",
        "a network listener holds its sockets",
        "io/net-listener.c qio_net_listener_add",
    ),
    Kind(
        "watch",
        "an event source holds the channel it watches, and what it calls back",
        "io/channel-watch.c qio_channel_create_fd_watch, io/net-listener.c",
    ),
    Kind("vnc-client", "a VNC client holds its channels", "ui/vnc.c vnc_connect"),
    Kind("vnc-display", "a VNC server holds its listeners", "ui/vnc.c vnc_display_listen"),
    Kind("netdev", "a stream netdev holds its listener and its channel", "net/stream.c"),
    Kind("nbd-server", "the NBD server holds its listener", "blockdev-nbd.c nbd_server_start"),
    Kind("nbd-client", "an NBD client holds its channels", "nbd/server.c nbd_client_new"),
)

_WATCH = "io/channel-watch.c qio_channel_create_fd_watch"
_LISTENER = "io/net-listener.c qio_net_listener_add, qio_net_listener_set_client_func_full"
_STREAM = "net/stream.c net_stream_server_init, net_stream_client_init"
# A GSource's own fields, which tell whether it is attached (glib/gmain.c).
_SOURCE = (
    "_GSource.source_funcs _GSource.ref_count _GSource.context _GSource.prev _GSource.next "
    "_GSource.poll_fds?"
)


def _watch(way: str, target: str, descriptor: str = "") -> Holder:
    needs = f"{_SOURCE} {descriptor}" if descriptor else _SOURCE
    return Holder("watch", Around("source"), way, target, _WATCH, needs=needs)


def _vnc(kind: str, way: str, target: str, source: str) -> Holder:
    struct = way.partition(".")[0]
    return Holder(kind, Around("linked", f"{struct}.next"), way, target, source)


def _nbd_server(way: str, target: str) -> Holder:
    return Holder("nbd-server", Around("variable"), way, target, "blockdev-nbd.c nbd_server_start")


def _netdev(way: str, target: str, either: str, shape: str = "netdev") -> Holder:
    start = Around(shape, "NetClientState.next")
    needs = "NetClientState.info NetClientInfo.size"
    return Holder("netdev", start, way, target, _STREAM, needs=needs, either=either)


HOLDERS = (
    Holder(
        "channel",
        OfType("qio-channel-tls"),
        "QIOChannelTLS.master",
        "qio-channel",
        "io/channel-tls.c qio_channel_tls_new_server",
    ),
    Holder(
        "channel",
        OfType("qio-channel-websock"),
        "QIOChannelWebsock.master",
        "qio-channel",
        "io/channel-websock.c qio_channel_websock_new_server",
    ),
    # Until 10.1 two arrays; then an array of structures, each with its socket and its watch,
    # which was given the listener with a reference.
    Holder(
        "listener",
        OfType("qio-net-listener"),
        "QIONetListener.sioc ->[QIONetListener.nsioc]",
        "qio-channel-socket",
        _LISTENER,
        either="listener socket",
        since="until 10.1",
    ),
    Holder(
        "listener",
        OfType("qio-net-listener"),
        "QIONetListener.source ->[QIONetListener.nsioc] -> QIONetListenerSource.sioc",
        "qio-channel-socket",
        _LISTENER,
        either="listener socket",
        since="since 10.2",
    ),
    # Each watch was given the listener with a reference.
    Holder(
        "watch",
        Reader("listener_watches"),
        "",
        "qio-net-listener",
        _LISTENER,
        needs="QIONetListener.nsioc QIONetListener.io_source",
        either="listener watch",
        since="until 10.1",
    ),
    # Under an AioContext the listener holds itself once, for all its sockets.
    Holder(
        "watch",
        Reader("listener_sources"),
        "",
        "qio-net-listener",
        _LISTENER,
        needs="QIONetListener.nsioc QIONetListener.source QIONetListener.aio_context "
        "QIONetListener.io_func QIONetListenerSource.io_source",
        either="listener watch",
        since="since 10.2",
    ),
    _watch("QIOChannelFDSource.ioc", "qio-channel", "QIOChannelFDSource.fd"),
    _watch("QIOChannelTLSSource.tioc", "qio-channel-tls"),
    _watch("QIOChannelWebsockSource.wioc", "qio-channel-websock"),
    _watch("QIOChannelBufferSource.bioc", "qio-channel-buffer"),
    # The watch of a character device's input; the structure is as old as 2.10.
    Holder(
        "watch",
        Around("source"),
        "IOWatchPoll.ioc",
        "qio-channel",
        "chardev/char-io.c io_add_watch_poll, io_watch_poll_finalize",
        needs=_SOURCE,
        since="since 11.0",
        unsure="a character device's watch holds its channel",
        mark="IRQState.observer",
    ),
    _vnc("vnc-client", "VncState.sioc", "qio-channel-socket", "ui/vnc.c vnc_connect"),
    _vnc("vnc-client", "VncState.ioc", "qio-channel", "ui/vnc.c vnc_connect"),
    _vnc("vnc-display", "VncDisplay.listener", "qio-net-listener", "ui/vnc.c vnc_display_listen"),
    _vnc("vnc-display", "VncDisplay.wslistener", "qio-net-listener", "ui/vnc.c vnc_display_listen"),
    _vnc("vnc-display", "VncDisplay.tlscreds", "tls-creds", "ui/vnc.c vnc_display_open"),
    _vnc("nbd-client", "NBDClient.sioc", "qio-channel-socket", "nbd/server.c nbd_client_new"),
    _vnc("nbd-client", "NBDClient.ioc", "qio-channel", "nbd/server.c nbd_client_new"),
    _vnc("nbd-client", "NBDClient.tlscreds", "tls-creds", "nbd/server.c nbd_client_new"),
    _vnc("nbd-client", "NBDConn.cioc", "qio-channel-socket", "blockdev-nbd.c nbd_accept"),
    _nbd_server("NBDServerData.listener", "qio-net-listener"),
    _nbd_server("NBDServerData.tlscreds", "tls-creds"),
    _netdev("NetStreamState.listener", "qio-net-listener", "stream listener"),
    _netdev("NetStreamState.listen_ioc", "qio-channel", "stream listening channel"),
    _netdev("NetStreamState.ioc", "qio-channel", "stream channel"),
    # Since 10.2 it is the head of what stream netdevs and passt have.
    _netdev("NetStreamData.listener", "qio-net-listener", "stream listener", "netdev-head"),
    _netdev("NetStreamData.listen_ioc", "qio-channel", "stream listening channel", "netdev-head"),
    _netdev("NetStreamData.ioc", "qio-channel", "stream channel", "netdev-head"),
)
