"""Every command of qmr on the pages is run: here, or by the test that is named for it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from gdbvms import debug_qemu
from test_user_docs import FOUND, PAGES

from qmrinspect.hotplug.vm import Vm

#: Pages that have tests of their own, which run all of their commands.
OWN = {
    **dict.fromkeys(PAGES, "test_a_command_shows_what_the_page_says"),
    "case-study.md": "test_the_case_study_is_so",
    "policies.md": "test_what_the_page_shows_is_what_comes",
    "ci.md": "test_the_workflow_installs_hunts_and_reports",
    "session.md": "test_what_the_session_shows_can_be_typed",
}
#: Commands that need more than a VM, or minutes, and who runs their like.
ELSEWHERE = {
    "hunt": "test_every_candidate_has_a_verdict_or_a_reason",
    "hunt 'virtio-*'": "test_globs_and_near_names_of_drivers",
    "hunt --error-paths [DRIVER...]": "test_error_paths_are_told_apart_by_property",
    "hunt --cycles 5 --error-paths --campaign FILE [DRIVER...]": (
        "test_a_deep_hunt_has_cycles_and_error_paths"
    ),
    "hunt --trace intel-hda piix3-usb-uhci qxl": "test_the_first_find_of_readme_is_found",
    "vm1 refs hda0": "test_the_references_of_readme_are_there",
    "demo --trace": "test_the_demo_names_the_takers",
    "NAME trace nic0": "test_a_live_object_is_followed",
    "NAME trace --plug intel-hda": "test_a_plug_is_traced_from_birth",
    "NAME hunt intel-hda --trace": "test_a_finding_ends_with_the_line",
    "NAME unplug nic0 --trace": "test_an_unplug_says_what_dropped_and_what_did_not",
    "--core FILE check": "test_a_core_equals_the_live_reading",
    "libvirt:DOMAIN check": "test_a_domain_is_read_and_driven_through_libvirt",
    "libvirt:DOMAIN refs net0": "test_a_domain_is_read_and_driven_through_libvirt",
    "libvirt:DOMAIN repl": "test_the_repl_gets_events_through_libvirt",
    "report owner-shared.sqlite --baseline owner-ref.sqlite": (
        "test_two_campaigns_compared_say_what_a_policy_fixes"
    ),
    "report CAMPAIGN -o FILE": "test_the_page_works_in_a_browser_without_a_network",
    "replay BUNDLE --qemu OTHER": "test_replay_suits_git_bisect",
}
_VM = re.compile(r"^(?:NAME|PID|TARGET|vm1)\b")
HERE = sorted(
    {
        line.strip()
        for page, front, line in FOUND
        if front == "shell" and page not in OWN and line.strip() not in ELSEWHERE
    }
)


@pytest.mark.unit
def test_each_command_has_who_runs_it() -> None:
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = {*OWN.values(), *ELSEWHERE.values()}
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
    lines = {line.strip() for _, front, line in FOUND if front == "shell"}
    assert not set(ELSEWHERE) - lines  # none is left of a page that changed
    assert len(HERE) > 20


def _words(line: str, pid: int) -> list[str]:
    """Return the words of a command as they are run: on that VM, and on QEMUs that are here."""
    # What a user built has debug information.
    line = re.sub(r"(?:\./|/usr/local/)\S*/qemu-system-x86_64", debug_qemu(), line)
    line = re.sub(r"\bFILE\b", "kept.gz", line)
    words = shlex.split(_VM.sub(str(pid), line))
    if words[0] in ("diff", "check"):
        words.insert(0, str(pid))  # more than one VM may run here
    if words[0] == "hunt" and words[-1].endswith(".sqlite"):
        words.append("usb-tablet")  # all that QEMU has takes a minute
    return words


@pytest.mark.timeout(300)
def test_the_commands_of_the_pages_run(fresh_vm: Vm, tmp_path: Path) -> None:
    # A plug comes before its unplug, what is written before what reads it.
    begins = re.compile(r"(?<!-)\b(?:save|plug|layout)\b")
    order = sorted(HERE, key=lambda line: (begins.search(line) is None, "after" in line))
    lines = [_words(line, fresh_vm.pid) for line in order]
    code = (
        "import contextlib, io, json\nfrom qmrinspect.fronts.shell.cli import main\n"
        f"for words in {lines!r}:\n"
        "    said = io.StringIO()\n"
        "    with contextlib.redirect_stderr(said):\n        code = main(words)\n"
        "    print('##', json.dumps([words, code, said.getvalue()]), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    ran = [json.loads(line[3:]) for line in done.stdout.splitlines() if line[:3] == "## "]
    assert len(ran) == len(lines)
    # 1 is a finding; what cannot be done ends with 2 and says so.
    assert [one for one in ran if one[1] > 1] == []


def test_what_the_session_shows_can_be_typed() -> None:
    lines = [line for page, front, line in FOUND if page == "session.md" and front == "repl"]
    assert "check" in lines and "unplug sound" in lines
    with Vm(extra=("-device", "virtio-net-pci,id=nic0", "-device", "qemu-xhci,id=xhci0")) as vm:
        done = subprocess.run(
            [sys.executable, "-m", "qmrinspect", str(vm.pid), "repl"],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            check=False,
        )
    # The page unplugs a device that leaks; a line that is wrong would end it with 2.
    assert (done.returncode, done.stderr) == (1, "")
    assert "sound (intel-hda): leak" in done.stdout and "VM status" in done.stdout
