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
