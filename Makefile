# Two commands for a fresh machine: `make demo` and `make test`. Both need Python >= 3.10 with pip, git and a network.
PYTHON ?= python3

.PHONY: demo demo-server test constraints clean
.DEFAULT_GOAL := test

test: .nox/bootstrap/ready
	scripts/system-packages.sh
	.nox/bootstrap/bin/nox

constraints: .nox/bootstrap/ready
	.nox/bootstrap/bin/nox -s constraints

demo: export DEMO_STARTED := $(shell date +%s)
demo: .demo/venv/ready
	.demo/venv/bin/python scripts/demo.py

# The tracking server of the demo again, to look at what its runs left.
demo-server: .demo/venv/ready
	.demo/venv/bin/python scripts/demo.py --serve

clean:
	rm -rf .nox .demo

# `pip --python` fills an environment that has no pip of its own: Debian's Python comes without what `venv` needs
# to put one in.
define environment
	$(PYTHON) -m venv --clear --without-pip $(@D)
	$(PYTHON) -m pip --python $(@D)/bin/python install --quiet --constraint constraints/core.txt
endef

.nox/bootstrap/ready: constraints/core.txt
	$(environment) nox uv
	touch $@

.demo/venv/ready: constraints/core.txt pyproject.toml
	$(environment) --editable .
	touch $@
