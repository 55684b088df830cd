"""Devices in another process
--------------------------
"""

from __future__ import annotations

from .record import Holder, Kind, OfType

__all__ = ["HOLDERS", "KINDS"]

KINDS = (
    Kind(
        "proxy-section",
        "a proxy device holds the owners of the regions that it shares with its process",
        "hw/remote/proxy-memory-listener.c proxy_memory_listener_region_addnop",
        "since 6.0",
        on="owner",
    ),
    Kind(
        "proxy-channel",
        "a proxy device holds the channel to its process",
        "hw/remote/proxy.c pci_proxy_dev_realize",
        "since 6.0",
    ),
)

HOLDERS = (
    Holder(
        "proxy-section",
        OfType("x-pci-proxy-dev"),
        "PCIProxyDev.proxy_listener + ProxyMemoryListener.mr_sections "
        "->[ProxyMemoryListener.n_mr_sections MemoryRegionSection] + MemoryRegionSection.mr",
        "memory-region",
        "hw/remote/proxy-memory-listener.c proxy_memory_listener_region_addnop",
    ),
    Holder(
        "proxy-channel",
        OfType("x-pci-proxy-dev"),
        "PCIProxyDev.ioc",
        "qio-channel",
        "hw/remote/proxy.c pci_proxy_dev_realize",
    ),
)
