"""References of the memory API
----------------------------

``memory_region_ref`` references a region's owner, never the region; a region
without an owner is not referenced at all (system/memory.c).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..index import Index
from .edges import Edge, Kind
from .policies import Policy

__all__ = ["KINDS"]


def _subregion(index: Index, policy: Policy) -> Iterator[Edge]:
    regions = index.snapshot.regions
    for region in regions.values():
        container = regions.get(region.container)
        if container is None:
            continue
        target = policy.referenced(region, container)
        if target:
            yield Edge(
                "subregion",
                target,
                container.address,
                container.owner or container.address,
                f'MemoryRegion.subregions "{region.name}"',
            )


def _space_root(index: Index, policy: Policy) -> Iterator[Edge]:
    for space in index.snapshot.spaces.values():
        owner = _owner(index, space.root)
        if owner:
            yield Edge(
                "address-space-root",
                owner,
                space.address,
                index.containing(space.address),
                f'AddressSpace "{space.name}".root',
            )


def _view_root(index: Index, policy: Policy) -> Iterator[Edge]:
    for view in index.snapshot.views.values():
        owner = _owner(index, view.root)
        if owner:
            yield Edge("flatview-root", owner, view.address, 0, "FlatView.root")


def _flat_range(index: Index, policy: Policy) -> Iterator[Edge]:
    for view in index.snapshot.views.values():
        for i, flat in enumerate(view.ranges):
            owner = _owner(index, flat.mr)
            if owner:
                yield Edge("flat-range", owner, view.address, 0, f"FlatView.ranges[{i}].mr")


def _section(index: Index, policy: Policy) -> Iterator[Edge]:
    for view in index.snapshot.views.values():
        for i, mr in enumerate(view.sections):
            region = index.snapshot.regions.get(mr)
            if region is None:
                continue
            field = f"FlatView.dispatch->map.sections[{i}].mr"
            if region.kind == "subpage":
                yield Edge("dispatch-section", mr, view.address, 0, field)
            elif region.owner:
                yield Edge("dispatch-section", region.owner, view.address, 0, field)


def _kvm(index: Index, policy: Policy) -> Iterator[Edge]:
    snapshot = index.snapshot
    for listener in snapshot.listeners.values():
        space = snapshot.spaces.get(listener.space)
        if not listener.name.startswith("kvm-") or space is None or "io" in listener.name:
            continue
        view = snapshot.views.get(space.view)
        for i, flat in enumerate(view.ranges if view else ()):
            owner = _owner(index, flat.mr)
            if owner:
                yield Edge(
                    "kvm-slot",
                    owner,
                    listener.address,
                    0,
                    f'KVMMemoryListener "{listener.name}" range[{i}]',
                )


def _owner(index: Index, region: int) -> int:
    found = index.snapshot.regions.get(region)
    return found.owner if found else 0


KINDS = (
    Kind(
        "subregion",
        "a container holds its subregion: which object that references is the policy's rule",
        "system/memory.c memory_region_update_container_subregions, memory_region_del_subregion",
        "same owner: no reference since ac7a892fd3 (10.2)",
        False,
        _subregion,
        True,
    ),
    Kind(
        "address-space-root",
        "an address space holds the owner of its root region",
        "system/memory.c address_space_init; dropped by do_address_space_destroy after a grace "
        "period",
        "",
        False,
        _space_root,
    ),
    Kind(
        "flatview-root",
        "a flat view holds the owner of the region it was made from",
        "system/memory.c flatview_new, flatview_destroy",
        "",
        True,
        _view_root,
    ),
    Kind(
        "flat-range",
        "a range of a flat view holds the owner of its region",
        "system/memory.c flatview_insert, flatview_destroy",
        "",
        True,
        _flat_range,
    ),
    Kind(
        "dispatch-section",
        "a section of a view's dispatch table holds the owner of its region; that of a subpage "
        "holds the subpage itself",
        "system/physmem.c phys_section_add, phys_section_destroy",
        "",
        True,
        _section,
    ),
    Kind(
        "kvm-slot",
        "KVM's listener holds the owner of every range of its address space",
        "accel/kvm/kvm-all.c kvm_region_add, kvm_region_commit",
        "",
        True,
        _kvm,
    ),
)
