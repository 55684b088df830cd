"""What outlives a device, as people have reported it, on the distribution's QEMU."""

from __future__ import annotations

from conftest import Qmr

from qmrinspect.hotplug.vm import Vm


def test_one_leak_has_one_verdict(fresh_vm: Vm, qmr: Qmr) -> None:
    """UHCI never frees its irq; what points to it afterwards lies in freed memory."""
    pid = fresh_vm.pid
    assert qmr(pid, "plug", "piix3-usb-uhci", "id=u").code == 0
    unplugged = qmr(pid, "unplug", "u", "--json")
    assert unplugged.code == 1
    judged = unplugged.json
    assert (judged["outcome"], judged["cause"]) == ("partial-leak", "unbalanced")
    (left,) = judged["objects_left"]
    sentence = f"irq <{left['address']}> has 1 reference that no known structure holds"
    assert sentence in judged["text"]

    checked = qmr(pid, "check", "--json")
    (finding,) = checked.json["findings"]
    assert finding["object"]["address"] == left["address"]
    assert finding["text"].startswith(sentence)
    assert "no word of live memory points to it" in finding["text"]
    assert not checked.json["unknown"]
    (orphan,) = qmr(pid, "orphans", "--json").json["orphans"]
    assert [cause["text"] for cause in orphan["causes"]] == [finding["text"]]
    assert finding["text"] in qmr(pid, "why", left["address"]).out
    assert finding["text"] in qmr(pid, "orphans").out


def test_an_address_tells_its_block(fresh_vm: Vm, qmr: Qmr) -> None:
    """EEPRO100 registers a reset handler that it never takes back."""
    pid = fresh_vm.pid
    assert qmr(pid, "plug", "i82559a", "id=e").code == 0
    device = int(qmr(pid, "show", "e", "--json").json["object"]["address"], 16)
    plugged = qmr(pid, "show", hex(device + 24), "--json").json
    assert plugged["object"]["id"] == "e"
    place = plugged["place"]
    assert (place["state"], place["start"], place["offset"]) == ("live", hex(device), 24)
    assert place["field"] == "Object.ref"
    live = [row["place"] for row in plugged["pointers"] if row["memory"] == "live"]
    assert "object" in live
    text = qmr(pid, "show", hex(device + 24)).out
    assert f"+0x18 in a live block of {place['size']} bytes" in text

    qmr(pid, "unplug", "e")
    freed = qmr(pid, "show", hex(device + 8), "--json").json
    assert freed["object"] is None
    assert freed["place"]["state"] == "freed"
    # The entry of the list of reset handlers: its link, the function, the device.
    left = [row for row in freed["pointers"] if row["memory"] == "live"]
    assert any(row["place"] == "block" and row["offset"] == 24 for row in left)
    assert "nothing is mapped" in qmr(pid, "show", "0x1000").out
