"""Who took what is held
---------------------

Each reference that the ledger names, and each that nothing names, gets the change of the
count that took it: by the function that takes such references, and by the structure that
holds it, which that function had in a register or on its stack.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..ledger import Book, Edge
from .kinds import kinds_of
from .life import Life, Step

__all__ = ["Balance", "Held", "balance", "learn_sites", "witnesses"]

# How far up the creator is that releases what it made, in frames of the drop.
_CREATOR_FRAMES = 3
# So often must a nameless function have taken one kind of reference, and no other.
_LEARNED = 2


class Held(NamedTuple):
    """A reference that remains and the change that took it.

    :param evidence: ``site+witness``, ``site`` (by site only), ``witness`` or ``last`` (the
        only one left of both).
    """

    edge: Edge
    step: Step
    evidence: str


class Balance(NamedTuple):
    """What remains of one object's references.

    :param held: the ledger's references, each with its taker.
    :param unnamed: references of the ledger for which no taker was found.
    :param unexplained: those that took what nothing known holds.
    :param choice: how many of ``unexplained`` remain, when they are more candidates than that;
        None when all do.
    :param denied: what was taken by a function of a known kind, when the ledger has no such
        reference; with its kinds.
    """

    life: Life
    held: Sequence[Held]
    unnamed: Sequence[Edge]
    unexplained: Sequence[Step]
    choice: int | None
    denied: Sequence[tuple[str, Step]]


Learned = Mapping[int, str]


def witnesses(book: Book, edges: Sequence[Edge]) -> list[frozenset[int]]:
    """Return, for each reference on an object, the structures that a taker of it works on."""
    regions: dict[tuple[int, str], list[int]] = defaultdict(list)
    for region in book.index.snapshot.regions.values():
        if region.container:
            field = f'MemoryRegion.subregions "{region.name}"'
            regions[region.container, field].append(region.address)
    buses = {
        k.address: bus.address for bus in book.index.snapshot.buses.values() for k in bus.children
    }
    seen: Counter[tuple[int, str]] = Counter()
    out = []
    for edge in edges:
        found = {edge.holder} - {0}
        if edge.kind == "subregion":
            # Of several regions with one name each has a reference of its own.
            key = edge.holder, edge.field
            own = [a for a in regions.get(key, ()) if _on(book, a, edge.target)]
            found = {own[seen[key]]} if seen[key] < len(own) else set(own)
            seen[key] += 1
        elif edge.kind == "bus-child" and edge.holder in buses:
            found.add(buses[edge.holder])
        out.append(frozenset(found))
    return out


def _on(book: Book, region: int, target: int) -> bool:
    found = book.index.snapshot.regions[region]
    return target in (found.owner, region)


def site_of(step: Step) -> int | None:
    """Return the function that a change is made in, the start of the innermost frame, if known."""
    return step.frames[0].function if step.frames else None


def step_kinds(step: Step) -> frozenset[str]:
    """Return what the call site says; a count of 0 before is a birth, and no other is."""
    if step.event.old == 0 and step.event.takes:
        return frozenset(("initial",))
    kinds = kinds_of(step.frames)
    return kinds - {"initial"} if step.event.old else kinds


def learn_sites(found: Iterable[Balance]) -> dict[int, str]:
    """Return the kinds that nameless functions were seen to take, by witness, without exception."""
    seen: dict[int, Counter[str]] = defaultdict(Counter)
    for one in found:
        for held in one.held:
            site = site_of(held.step)
            known = held.evidence in ("witness", "last") and not step_kinds(held.step)
            if known and site is not None:
                seen[site][held.edge.kind] += 1
    return {
        site: kinds.most_common(1)[0][0]
        for site, kinds in seen.items()
        if len(kinds) == 1 and sum(kinds.values()) >= _LEARNED
    }


def balance(book: Book, life: Life, learned: Learned | None = None) -> Balance:
    """Match an object's references to the changes that took them.

    :param learned: from :func:`learn_sites`.
    """
    edges = list(book.on.get(life.object, ()))
    if life.refused:
        return Balance(life, (), edges, (), None, ())
    steps = life.steps
    gone = _pairs(steps)
    takes = [i for i, step in enumerate(steps) if step.event.takes and i not in gone]
    matched = _assign(book, steps, edges, takes, learned or {})
    held = [Held(edges[n], steps[i], how) for n, (i, how) in sorted(matched.items())]
    unnamed = [edge for n, edge in enumerate(edges) if n not in matched]
    used = {i for i, _ in matched.values()}
    left = [i for i in takes if i not in used]
    drops = [i for i, step in enumerate(steps) if step.event.drops and i not in gone]
    remain = max(0, life.count - len(edges))
    candidates = _unpaired(steps, left, drops, remain)
    open_ = _denied(steps, candidates, edges, remain)
    if not remain:
        candidates = []
    choice = remain if len(candidates) > remain else None
    return Balance(life, held, unnamed, [steps[i] for i in candidates], choice, open_)


def _pairs(steps: Sequence[Step]) -> set[int]:
    """Return takes and drops that belong together: one function made and ended both.

    A temporary reference is dropped by the activation that took it; the first one by what
    called the function that made the object.
    """
    gone: set[int] = set()
    for i, step in enumerate(steps):
        if not step.event.drops:
            continue
        for j in range(i - 1, -1, -1):
            take = steps[j]
            if j not in gone and take.event.takes and _same_activation(take, 1, step, 1):
                gone |= {i, j}
                break
    if steps and 0 not in gone and steps[0].event.old == 0:
        drop = _creators_drop(steps, gone)
        if drop is not None:
            gone |= {0, drop}
    return gone


def _creators_drop(steps: Sequence[Step], gone: set[int]) -> int | None:
    """Return the first drop by whoever made the object, the closest to its making first."""
    birth, best = steps[0], None
    for i, step in enumerate(steps):
        if not step.event.drops or i in gone:
            continue
        for up in range(1, _CREATOR_FRAMES + 1):
            depth = next(
                (k for k in range(1, len(birth.stack.pcs)) if _same_activation(birth, k, step, up)),
                None,
            )
            if depth is not None:
                if best is None or (depth + up, i) < best:
                    best = depth + up, i
                break
    return best[1] if best else None


def _same_activation(one: Step, k: int, other: Step, n: int) -> bool:
    """Whether frame ``k`` of one stack and ``n`` of another are one call of one function."""
    a, b = one.stack, other.stack
    if one.event.tid != other.event.tid or k + 1 >= len(a.pcs) or n + 1 >= len(b.pcs):
        return False
    return a.tops[k + 1] == b.tops[n + 1] and a.pcs[k + 1] == b.pcs[n + 1]


def _assign(
    book: Book, steps: Sequence[Step], edges: Sequence[Edge], takes: Sequence[int], learned: Learned
) -> dict[int, tuple[int, str]]:
    """Give each reference a take: the best evidence first, then the closest, then the latest."""
    found: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    of_step = {i: step_kinds(steps[i]) for i in takes}
    for n, (edge, known) in enumerate(zip(edges, witnesses(book, edges))):
        for i in takes:
            words = steps[i].words
            near = min((words[w] for w in known if w in words), default=None)
            site = site_of(steps[i])
            kind = learned.get(site) if site is not None else None
            rank = _rank(edge.kind, of_step[i], near is not None, kind)
            if rank is not None:
                found[rank].append((-1 if near is None else near, -i, n))
    out: dict[int, tuple[int, str]] = {}
    for rank, evidence in enumerate(_EVIDENCE):
        taken = {i for i, _ in out.values()}
        choices: dict[int, list[int]] = defaultdict(list)
        for _, at, n in sorted(found[rank]):
            if n not in out and -at not in taken:
                choices[n].append(-at)
        out.update({n: (i, evidence) for n, i in _matching(choices).items()})
    used = {i for i, _ in out.values()}
    takes_left = [i for i in takes if i not in used and of_step[i] <= _HANDED_ON]
    edges_left = [n for n in range(len(edges)) if n not in out]
    if len(takes_left) == len(edges_left) == 1:
        out[edges_left[0]] = takes_left[0], "last"
    return out


_EVIDENCE = ("site+witness", "witness", "site", "site")
# The first reference becomes that of whoever the maker hands it to.
_HANDED_ON = frozenset(("initial",))


def _rank(kind: str, of_step: frozenset[str], near: bool, learned: str | None) -> int | None:
    """Return how good the evidence is that a take made a reference of a kind, None for none."""
    if kind in of_step:
        return 0 if near else 2
    if of_step - _HANDED_ON:
        return None
    if near:
        return 1
    return 3 if learned == kind and not of_step else None


def _matching(choices: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """Match as many as can be, each with an early one of its choices (augmenting paths).

    A structure is often seen at the next takes as well, its own take seldom before.
    """
    owner: dict[int, int] = {}

    def place(n: int, seen: set[int]) -> bool:
        for i in choices[n]:
            if i not in seen:
                seen.add(i)
                if i not in owner or place(owner[i], seen):
                    owner[i] = n
                    return True
        return False

    for n in choices:
        place(n, set())
    return {n: i for i, n in owner.items()}


def _unpaired(
    steps: Sequence[Step], left: Sequence[int], drops: Sequence[int], remain: int
) -> list[int]:
    """Leave out takes that drops of the same kind have ended, while there are too many."""
    out = list(left)
    for drop in drops:
        if len(out) <= remain:
            break
        kinds = step_kinds(steps[drop])
        words = steps[drop].words
        fitting = [i for i in out if i < drop and step_kinds(steps[i]) & kinds]
        if fitting:
            out.remove(max(fitting, key=lambda i: len(words.keys() & steps[i].words.keys())))
    return out


def _denied(
    steps: Sequence[Step], left: Sequence[int], edges: Sequence[Edge], remain: int
) -> list[tuple[str, Step]]:
    """Return what a known function took and nothing names, where it must still be held."""
    out = []
    if remain and len(left) == remain:
        for i in left:
            kinds = step_kinds(steps[i])
            if kinds and "initial" not in kinds:
                out.append(("/".join(sorted(kinds)), steps[i]))
    return out
