"""The command line on the distribution's own QEMU."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from conftest import Qmr
from fakes import FakeMachine

from qmrinspect.fronts.session import ShellSession
from qmrinspect.fronts.shell import cli
from qmrinspect.fronts.shell.table import EVERY
from qmrinspect.hotplug.vm import Vm
from qmrinspect.report import render
from qmrinspect.store import save

# Reading -----------------------------------------------------------------------------


def test_ps_shows_the_vm_by_its_name(qmr: Qmr, stock_vm: Vm) -> None:
    found = {p["pid"]: p for p in qmr("ps", "--json").json["processes"]}
    here = found[stock_vm.pid]
    assert here["name"] == "stock"
    assert here["machine"] == "pc"
    assert here["qmp"] == [stock_vm.qmp]
    assert here["readable"] and not here["refused"]
    assert re.match(r"\d+\.\d+\.\d+", here["version"])
    assert "stock" in qmr("ps").out


def test_refs_names_the_field_that_holds_each_reference(qmr: Qmr, stock_vm: Vm) -> None:
    data = qmr("stock", "refs", "nic0", "--json").json
    assert data["format"] == "qmr-refs/1"
    assert data["object"]["path"] == "/machine/peripheral/nic0"
    assert data["unexplained"] == 0
    assert sum(ref["count"] for ref in data["references"]) == data["observed"]
    by_kind = {ref["kind"]: ref for ref in data["references"]}
    assert by_kind["child"]["holder_path"] == "/machine/peripheral"
    assert by_kind["child"]["field"] == 'child "nic0"'
    assert by_kind["bus-child"]["holder_path"].endswith("/pci.0")
    text = qmr("stock", "refs", "nic0").out.splitlines()
    assert text[0] == (f"nic0 (virtio-net-pci) has {data['observed']} references, all explained")
    assert any("MemoryRegion.subregions" in line for line in text)


def test_an_object_goes_by_path_id_end_of_path_and_address(qmr: Qmr, stock_vm: Vm) -> None:
    first = qmr("stock", "refs", "nic0", "--json").json["object"]
    for name in (first["path"], "peripheral/nic0", first["address"]):
        assert qmr("stock", "refs", name, "--json").json["object"] == first


def test_why_leads_from_a_variable_to_the_object(qmr: Qmr, stock_vm: Vm) -> None:
    data = qmr("stock", "why", "nic0", "--json").json
    assert data["cycle"] == []
    chain = data["chain"]
    assert chain[0]["field"] == "current_machine"
    assert chain[-1]["target"] == data["object"]["address"]
    for one, two in zip(chain, chain[1:]):
        assert two["holder"] == one["target"]
    text = qmr("stock", "why", "nic0").out
    assert "/machine/peripheral has nic0 as its child" in text


def test_show_tells_what_a_region_is(qmr: Qmr, stock_vm: Vm) -> None:
    nic = qmr("stock", "show", "nic0", "--json").json
    assert nic["ancestors"][-3:] == ["pci-device", "device", "object"]
    assert nic["device"]["realized"]
    table = next(c for c in nic["children"] if c["name"] == "msix-table[0]")
    region = qmr("stock", "show", table["address"], "--json").json
    assert region["region"]["owner"] == nic["object"]["address"]
    assert region["region"]["name"] == "msix-table"
    assert "realized" in qmr("stock", "show", "nic0").out


def test_tree_shows_devices_and_counts_regions(qmr: Qmr, stock_vm: Vm) -> None:
    text = qmr("stock", "tree", "/machine/peripheral").out
    line = next(line for line in text.splitlines() if line.split()[0] == "nic0")
    assert re.search(r"virtio-net-pci\s+(\d+)/\1\s+\+\d+ regions", line)
    assert "msix-table" not in text
    assert "msix-table[0]" in qmr("stock", "tree", "/machine/peripheral", "--all").out
    shallow = qmr("stock", "tree", "/machine/peripheral", "--depth", 1, "--json").json
    assert {obj["depth"] for obj in shallow["objects"]} == {0, 1}


def test_tree_is_the_one_that_qemu_shows(qmr: Qmr, stock_vm: Vm) -> None:
    tree = {obj["path"] for obj in qmr("stock", "tree", "--json").json["objects"]}
    for line in qmr("stock", "qmp", "qom-list", "path=/machine/unattached", "--json").json[
        "return"
    ]:
        if line["type"].startswith("child<"):
            assert f"/machine/unattached/{line['name']}" in tree


def test_mtree_is_the_one_that_qemu_shows(qmr: Qmr, stock_vm: Vm) -> None:
    printed = qmr("stock", "hmp", "info mtree").out
    block = printed.split("address-space: memory\n")[1].split("\n\n")[0]
    theirs = re.findall(
        r"^ +([0-9a-f]{16})-([0-9a-f]{16}) \(prio (-?\d+), [^)]*\): (?:alias )?(\S+)", block, re.M
    )
    spaces = qmr("stock", "mtree", "memory", "--json").json["spaces"]
    ours = [
        (f"{start:016x}", f"{start + int(r['size'], 16) - 1:016x}", str(r["priority"]), r["name"])
        for r in spaces[0]["regions"]
        for start in [int(r["start"], 16)]
        if r["enabled"]
    ]
    assert ours == theirs


def test_flat_views_cover_ram(qmr: Qmr, stock_vm: Vm) -> None:
    views = qmr("stock", "mtree", "memory", "--flat", "--json").json["views"]
    assert len(views) == 1 and "memory" in views[0]["spaces"]
    first = views[0]["ranges"][0]
    assert (first["start"], first["name"]) == ("0x0", "pc.ram")


def test_check_explains_nearly_all(qmr: Qmr, stock_vm: Vm) -> None:
    ran = qmr("stock", "check", "--json")
    data = ran.json
    assert data["format"] == "qmr-check/1"
    assert data["target"]["kind"] == "process" and data["target"]["pid"] == stock_vm.pid
    assert set(data["capture"]) >= {"stop_us", "wall_us", "reads", "bytes", "retries", "quiescent"}
    policy = data["policy"]
    assert (policy["name"], policy["against"], policy["undecided"]) == ("owner-ref", 0, False)
    assert policy["for"] > 20 and policy["candidates"] == ["owner-ref", "strict"]
    explained = data["refs_explained"] + data["refs_by_rule"]
    assert explained >= 0.95 * data["refs_observed"]
    assert sum(rule["count"] for rule in data["rules"]) == data["refs_by_rule"]
    assert all(rule["source"] for rule in data["rules"])
    bad = [f for f in data["findings"] if f["severity"] != "note"]
    assert ran.code == (1 if bad else 0)
    assert qmr("stock", "check").code == ran.code


def test_policy_lists_all(qmr: Qmr, stock_vm: Vm) -> None:
    data = qmr("stock", "policy", "--json").json
    votes = {p["name"]: (p["for"], p["against"]) for p in data["policies"]}
    assert set(votes) == {"strict", "owner-ref", "subregion-ref", "no-ref", "owner-shared"}
    assert votes["owner-ref"][0] > 20 and votes["owner-shared"][1] > 20
    assert not data["mixed"]
    assert [p["name"] for p in data["policies"] if p["candidate"]] == ["owner-ref", "strict"]
    asserts = {p["name"]: p["asserts"] for p in data["policies"]}
    assert asserts["no-ref"] == asserts["owner-ref"] == ["!mr->container"]
    assert asserts["strict"] == ["!mr->container", "QTAILQ_EMPTY(&mr->subregions)"]
    text = qmr("stock", "policy").out
    assert text.startswith("policy owner-ref (") and "strict counts like owner-ref" in text


def test_where_no_region_tells_the_policy_is_undecided(qmr: Qmr, tmp_path: Path) -> None:
    machine = FakeMachine()
    machine.del_subregion(machine.msix)
    machine.del_subregion(machine.pba)
    file = tmp_path / "nothing-votes.jsonl"
    save(machine.snapshot(), file)
    data = qmr("--snapshot", file, "policy", "--json").json
    assert data["policy"]["undecided"] and data["policy"]["name"] == "owner-ref"
    left = ["owner-ref", "owner-shared", "no-ref", "strict"]
    assert data["policy"]["candidates"] == left
    for verb in ("policy", "check"):
        text = qmr("--snapshot", file, verb).out
        assert "policy undecided" in text
        assert "owner-ref, owner-shared, no-ref and strict" in text


def test_layout_says_what_was_validated(qmr: Qmr, stock_vm: Vm) -> None:
    data = qmr("stock", "layout", "--json").json
    assert data["source"]
    assert len(data["checks"]) >= 8 and all(check["ok"] for check in data["checks"])


def test_an_idle_machine_has_no_orphans_and_no_lost_cycle(qmr: Qmr, stock_vm: Vm) -> None:
    orphans = qmr("stock", "orphans", "--json")
    assert orphans.code == 0 and orphans.json["orphans"] == []
    cycles = qmr("stock", "cycles", "--json")
    assert cycles.code == 0
    own = [cycle for cycle in cycles.json["cycles"] if not cycle["ends_by_unplug"]]
    groups = [{obj["path"] for obj in cycle["objects"]} for cycle in own]
    # The strong link that makes qemu-xhci leak is seen before anything is unplugged.
    assert {"/machine/peripheral/xhci0", "/machine/peripheral/xhci0/xhci-core"} in groups
    # Whether unrealize breaks a cycle is known of what was hunted under this policy.
    unplug = {obj["path"]: cycle["unplug"] for cycle in own for obj in cycle["objects"]}
    assert unplug["/machine/peripheral/xhci0"] == "keeps"
    assert unplug["/machine/peripheral/nic0"] == "breaks"
    said = " ".join(qmr("stock", "cycles").out.split())
    keeps, _, breaks = said.partition("that unplugging breaks")
    assert "xhci0" in keeps and "nic0" not in keeps and "nic0 (virtio-net-pci)" in breaks


def test_graph_is_dot_with_the_cycle(qmr: Qmr, stock_vm: Vm) -> None:
    data = qmr("stock", "graph", "xhci0", "--json").json
    ids = {node["id"] for node in data["nodes"]}
    assert "xhci0" in ids and "nic0" not in ids
    assert data["dot"].startswith("digraph") and data["dot"].count("{") == data["dot"].count("}")
    assert any(edge["kind"] == "link" for edge in data["edges"])


def test_a_saved_snapshot_answers_as_the_live_vm(qmr: Qmr, stock_vm: Vm, tmp_path: Path) -> None:
    file = tmp_path / "now.gz"
    assert qmr("stock", "save", file).code == 0
    live, saved = qmr("stock", "refs", "nic0"), qmr("--snapshot", file, "refs", "nic0")
    assert saved.out == live.out
    again = qmr("stock", "diff", file, "--json").json
    assert (again["appeared"], again["gone"]) == ([], [])
    same = qmr("diff", file, file)
    assert same.code == 0 and "are the same" in same.out


def test_the_vm_runs_on_after_every_reading(qmr: Qmr, stock_vm: Vm) -> None:
    for verb in ("check", "tree", "mtree", "ps"):
        qmr("stock" if verb != "ps" else "ps", *([verb] if verb != "ps" else []))
        status = Path(f"/proc/{stock_vm.pid}/status").read_text()
        assert re.search(r"^TracerPid:\s+0$", status, re.M)
        assert not re.search(r"^State:\s+[tT]", status, re.M)
    assert qmr("stock", "hmp", "info status").out.startswith("VM status")


# Monitor -----------------------------------------------------------------------------


def test_a_clean_device_comes_and_goes(qmr: Qmr, fresh_vm: Vm, tmp_path: Path) -> None:
    before = tmp_path / "before"
    qmr(fresh_vm.pid, "save", before)
    plugged = qmr(fresh_vm.pid, "plug", "virtio-net-pci", "id=nic7", "--json").json
    assert plugged["path"] == "/machine/peripheral/nic7"
    assert "nic7" in {obj["id"] for obj in plugged["appeared"]}
    found = qmr(fresh_vm.pid, "diff", before, "--json").json
    assert "nic7" in {obj["id"] for obj in found["appeared"]}
    bus = next(c for c in found["changed"] if c["object"]["path"].endswith("/pci.0"))
    assert bus["after"] == bus["before"] + 1
    assert [ref["kind"] for ref in bus["gained"]] == ["parent-bus"]
    gone = qmr(fresh_vm.pid, "unplug", "nic7", "--json")
    assert (gone.code, gone.json["outcome"], gone.json["objects_left"]) == (0, "clean", [])


def test_a_leak_is_named_with_its_references(qmr: Qmr, fresh_vm: Vm) -> None:
    qmr(fresh_vm.pid, "plug", "intel-hda", "id=hda7")
    ran = qmr(fresh_vm.pid, "unplug", "hda7", "--json")
    assert ran.code == 1
    assert (ran.json["outcome"], ran.json["cause"]) == ("leak", "same-owner-subregions")
    assert not ran.json["event"]
    device = next(o for o in ran.json["objects_left"] if o["type"] == "intel-hda")
    assert device["was"] == "/machine/peripheral/hda7"
    assert all(ref["holder_label"] for ref in device["references"])
    assert [ref["kind"] for ref in device["references"]] == ["subregion"] * device["observed"]
    assert {ref["field"].split('"')[1] for ref in device["references"]} == {
        "intel-hda",
        "intel-hda-alias",
    }
    orphans = qmr(fresh_vm.pid, "orphans", "--json")
    assert orphans.code == 1
    assert [o["object"]["type"] for o in orphans.json["orphans"]] == ["intel-hda"]
    assert "same-owner-subregions" in qmr(fresh_vm.pid, "orphans").out
    lost = [c for c in qmr(fresh_vm.pid, "cycles", "--json").json["cycles"] if c["lost"]]
    assert [o["type"] for c in lost for o in c["objects"]] == ["intel-hda"]
    address = device["address"]
    assert "in a cycle of references" in qmr(fresh_vm.pid, "why", address).out
    check = qmr(fresh_vm.pid, "check", "--json")
    assert check.code == 1
    orphan = next(f for f in check.json["findings"] if f["kind"] == "orphan")
    assert orphan["severity"] == "error" and orphan["object"]["address"] == address


def test_qmp_takes_values_and_whole_messages(qmr: Qmr, stock_vm: Vm) -> None:
    short = qmr("stock", "qmp", "qom-get", "path=/machine", "property=type").out
    whole = qmr(
        "stock",
        "qmp",
        '{"execute": "qom-get", "arguments": {"path": "/machine", "property": "type"}}',
    ).out
    assert short == whole and "pc-i440fx" in short


def test_an_argument_has_the_type_that_qemu_says(qmr: Qmr, stock_vm: Vm) -> None:
    # A number for people, and a string for QEMU.
    said = qmr("stock", "qmp", "human-monitor-command", "command-line=42", "--json").json
    assert "unknown command" in said["return"]
    ran = qmr("stock", "qmp", "device_del", "ide=x")
    assert ran.code == 2 and "device_del takes no ide: did you mean id?" in ran.err
    ran = qmr("stock", "qmp", "device_dell", "id=x")
    assert ran.code == 2 and "did you mean device_del" in ran.err


def test_events_come_as_they_happen(fresh_vm: Vm) -> None:
    options = cli.Options()
    options.values["--pid"] = str(fresh_vm.pid)
    session = ShellSession(options)
    session.monitor()
    os.kill(fresh_vm.pid, signal.SIGTERM)
    outcome = EVERY["events"].run(session, Namespace(seconds=10, count=1))
    assert [event["event"] for event in outcome.data] == ["SHUTDOWN"]
    session.close()


# Text --------------------------------------------------------------------------------


def test_help_lists_every_verb(qmr: Qmr) -> None:
    ran = qmr("--help")
    assert ran.code == 0
    for name in EVERY:
        assert re.search(rf"^  {name}\s", ran.out, re.M), name
    assert qmr("refs", "--help").out.startswith("usage: qmr refs")
    assert re.fullmatch(r"qmr \d+\.\d+\S*\n", qmr("--version").out)


def test_colour_is_for_terminals_and_who_forces_it(qmr: Qmr, stock_vm: Vm) -> None:
    assert "\033" not in qmr("stock", "cycles").out
    assert "\033" in qmr("stock", "cycles", env={"CLICOLOR_FORCE": "1"}).out
    both = {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}
    assert "\033" not in qmr("stock", "cycles", env=both).out


def test_a_table_fits_the_terminal_and_is_whole_in_a_pipe() -> None:
    rows = [render.Row(("/machine/" + "x" * 100, "12345", "y" * 100))]
    try:
        render.use_style(render.Style(False, 60))
        narrow = list(render.table((), rows, right=(1,)))
        assert max(map(len, narrow)) <= 60 and "12345" in narrow[0]
        text = "".join(narrow)
        assert text.count("x") == text.count("y") == 100 and "…" not in text
        render.use_style(render.Style(False, None))
        (whole,) = render.table((), rows, right=(1,))
        assert "x" * 100 in whole and "y" * 100 in whole
    finally:
        render.use_style(None)


def test_the_gdb_script_is_there(qmr: Qmr) -> None:
    assert Path(qmr("gdb-script").out.strip()).is_file()


def test_verbs_need_nothing_but_the_standard_library() -> None:
    # GDB's own Python has no package of ours.
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import qmrinspect.verbs.table; "
        "print([m for m in sys.modules if m.startswith(('qemu', 'prompt_toolkit', 'pygments'))])"
    )
    place = Path(cli.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(place)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_plug_goes_where_no_leaked_device_is_in_the_way(qmr: Qmr, fresh_vm: Vm) -> None:
    # QEMU 7.2 aborts: RAMBlock "0000:00:08.0/vga.vram" already registered.
    assert qmr("fresh", "plug", "bochs-display", "id=one", "addr=8").code == 0
    assert qmr("fresh", "unplug", "one", "--json").json["outcome"] == "leak"
    same = qmr("fresh", "plug", "bochs-display", "id=two", "addr=8")
    assert same.code == 2 and "slot 8" in same.err and "--force" in same.err
    named = qmr("fresh", "plug", "bochs-display", "id=one")
    assert named.code == 2 and "still has the id one" in named.err and fresh_vm.alive()
    # QEMU's own choice is avoided, once it is the slot of one that leaked.
    free = qmr("fresh", "plug", "bochs-display", "id=three", "--json").json
    assert free["avoided"] == ["0000:00:08.0"]
    assert qmr("fresh", "unplug", "three", "--json").json["outcome"] == "leak"
    ran = qmr("fresh", "plug", "bochs-display", "id=four")
    assert ran.code == 0 and "still owns the RAM blocks" in ran.out and fresh_vm.alive()
    qmr("fresh", "plug", "bochs-display", "id=five", "addr=8", "--force")
    assert fresh_vm.wait(5.0) and "already registered" in fresh_vm.exit_text()
