# Sets up everything that qmr needs, and runs it.  All targets may be run again;
# what is done already is not done twice.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# Two targets at once would meet at apt's lock.
.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV := .venv
# Arguments of tools/build_qemu.py, one build a line.
define QEMUS
7.2
10.0
10.0 --policy subregion-ref
10.0 --policy owner-shared
10.0 --policy strict
10.0 --policy no-ref
10.0 --policy subregion-ref-v7
10.0 --target aarch64
10.0 --target aarch64 --policy no-ref
10.2
10.2 --target aarch64
11.1
11.1 --target aarch64
endef
# The same of tools/stock_qemu.py.
STOCK_QEMUS := 10.0 11.1
export QEMUS

RUN_PACKAGES := ca-certificates gdb ipxe-qemu python3 python3-venv qemu-system-data \
	qemu-system-x86 seabios
# What stands behind some of what is hunted.
HUNT_PACKAGES := $(RUN_PACKAGES) ceph-mon ceph-osd dbus-daemon glusterfs-common libnss3-tools \
	openssl qemu-block-extra vde-switch
TEST_PACKAGES := $(HUNT_PACKAGES) chromium dwz fish gdbserver graphviz groff less libvirt-clients \
	libjemalloc2 libtcmalloc-minimal4 libvirt-daemon-system libvirt-dev python3-dev \
	qemu-system-arm qemu-system-misc \
	qemu-system-ppc zsh zstd $(shell cat tools/qemu-build-packages)

# Python's own exit status for an uncaught error is 1 as well, and would pass for
# "leaks found".
define QMR
import sys, traceback
sys.argv[0] = "qmr"
try:
    from qmrinspect.fronts.shell.cli import main
    status = main()
except Exception:
    traceback.print_exc()
    status = 70
sys.exit(status)
endef
export QMR

# The command in the environment, in place of pip's: a Ctrl-C while Python finds its packages, the
# first tenth of a second, ends in a sentence.  Python without site (-S) gets here at once.
define LAUNCHER
import _signal, posix


def at_once(*_):
    begin = b"\n" if posix.isatty(2) else b""
    posix.write(2, begin + b"qmr: interrupted before anything was done\n")
    posix._exit(130)


if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, at_once)

import site
import sys

site.main()

from qmrinspect.fronts.shell.entry import main

sys.exit(main())
endef
export LAUNCHER

# Puts it there, where it works: not in a place whose name is too long, or has a space.
define launch
	printf '#!%s -S\n%s\n' "$(CURDIR)/$(VENV)/bin/python3" "$$LAUNCHER" >$(VENV)/bin/qmr.new; \
	chmod 755 $(VENV)/bin/qmr.new; \
	if $(VENV)/bin/qmr.new --version >/dev/null 2>&1; then \
		mv $(VENV)/bin/qmr.new $(VENV)/bin/qmr; \
	else \
		rm $(VENV)/bin/qmr.new; \
	fi
endef

# Runs a verb that finds leaks, as it should.
define find
	status=0; $(VENV)/bin/python -I -c "$$QMR" $(1) || status=$$?; \
	if (( status == 1 )); then \
		echo "(qmr's exit status was 1: it found leaks, as it should here)"; \
		status=0; \
	fi; \
	exit $$status
endef

# Installs what is missing of the packages given, or says how to.
define install
	have=$$(dpkg-query -W -f '$${db:Status-Abbrev} $${Package}\n' $(1) 2>/dev/null || :); \
	missing=(); \
	for package in $(sort $(1)); do \
		grep -qx "ii  *$$package" <<<"$$have" || missing+=("$$package"); \
	done; \
	if (( $${#missing[@]} )); then \
		command=(apt-get install --yes --no-install-recommends "$${missing[@]}"); \
		if (( $$(id -u) )); then \
			echo "Debian packages are missing; install them and run make again:" >&2; \
			echo "  sudo $${command[*]}" >&2; \
			exit 2; \
		fi; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update --quiet --quiet; \
		"$${command[@]}"; \
	fi
endef

.PHONY: help demo docs hunt screenshots unit test setup setup-test lint format check soak qemus profiles packages \
	packages-hunt packages-test clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## set up, then find the leaks of the distribution's own QEMU
	@$(call find,demo)

hunt: packages-hunt $(VENV)/ready-hunt ## set up, then hunt all that the distribution's QEMU can hotplug
	@$(call find,hunt)

unit: $(VENV)/ready-unit ## the tests that need no QEMU, no GDB and no root: half a minute
	$(VENV)/bin/pytest --quiet -m unit $$(grep --files-with-matches 'pytest.mark.unit' tests/test_*.py)

test: lint qemus check ## set up, then run all checks and all tests

setup: packages $(VENV)/ready ## install the Debian packages and the package into .venv

lint: setup-test ## ruff and mypy
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

format: setup-test ## let ruff rewrite the sources
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

check: setup-test qemus
	$(VENV)/bin/pytest

soak: setup-test qemus ## do for hours what the tests do a few times; writes docs/agreement.md, docs/moved-fields.md and docs/stop.md
	QMR_READINGS=1000 $(VENV)/bin/pytest tests/test_busy.py
	$(VENV)/bin/python tests/soak_stop.py --out docs/stop.md
	$(VENV)/bin/python tests/soak_irqs.py
	$(VENV)/bin/python tests/soak_infer.py
	$(VENV)/bin/python tools/agreement.py
	$(VENV)/bin/python tests/soak_trace.py

qemus: packages-test ## provide the QEMUs that the tests use: built with debug symbols, and stock ones
	@for qemu in $(STOCK_QEMUS); do /usr/bin/python3 tools/stock_qemu.py $$qemu; done
	@while read -r build; do /usr/bin/python3 tools/build_qemu.py $$build; done <<<"$$QEMUS"

docs: setup-test ## the pages as a site with a search, in build/site; fails for dead links
	$(VENV)/bin/mkdocs build --strict
	@echo "build/site/index.html"

screenshots: setup-test ## make the pictures of the pages anew, in docs/img
	$(VENV)/bin/python tools/make_screenshots.py

profiles: setup-test ## make the layout profiles anew that ship with the package
	$(VENV)/bin/python tools/make_profile.py

clean: ## remove .venv and what tools left; the QEMUs outside stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup-test: packages-test $(VENV)/ready-test

packages:
	@$(call install,$(RUN_PACKAGES))

packages-hunt:
	@$(call install,$(HUNT_PACKAGES))

packages-test:
	@$(call install,$(TEST_PACKAGES))

# The first python3 that is new enough and can make an environment: the one in
# PATH may be an old one, or one without ensurepip.
$(VENV)/python:
	@for python in python3 /usr/bin/python3; do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 9))' \
			2>/dev/null; then \
			"$$python" -m venv --clear $(VENV); \
			touch $@; \
			exit 0; \
		fi; \
	done; \
	echo "qmr needs Python 3.9 or newer with venv" >&2; \
	exit 2

# Compiled now: where PYTHONDONTWRITEBYTECODE is set, each start would do it again.
editable = $(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '$(1)' && \
	$(VENV)/bin/python -m compileall -q qmrinspect && { $(launch); }
comma := ,

$(VENV)/ready: pyproject.toml hatch_build.py $(VENV)/python
	$(call editable,.)
	@touch $@

$(VENV)/ready-hunt: pyproject.toml hatch_build.py $(VENV)/python
	@test -e $(VENV)/ready-test || { $(call editable,.[peers]); }
	@touch $@ $(VENV)/ready

$(VENV)/ready-unit: pyproject.toml hatch_build.py $(VENV)/python
	@test -e $(VENV)/ready-test || { $(call editable,.[dev]); }
	@touch $@

$(VENV)/ready-test: pyproject.toml hatch_build.py $(VENV)/python | packages-test
	$(call editable,.[dev$(comma)libvirt$(comma)dask$(comma)peers])
	@touch $@ $(VENV)/ready
