PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TWO := -n 2 --dist worksteal

.PHONY: app test stress oldest lint clean

app: $(VENV)/app.stamp
	$(BIN)/captioner app

# Of two tests at a time, threads that spin while they wait would take each other's core.
test oldest: export OMP_WAIT_POLICY := passive

test: $(VENV)/test.stamp lint
	$(BIN)/pytest $(TWO)

stress: $(VENV)/test.stamp
	$(BIN)/pytest tests/stress --long --timeout 3600

# On the oldest versions that requirements.txt allows, in an environment of their own.
oldest:
	mkdir -p .venv-oldest
	sed -n 's/^\([a-z0-9-]*\)>=\([^,]*\),.*/\1==\2/p' requirements.txt > .venv-oldest/constraints.txt
	PIP_CONSTRAINT=$(CURDIR)/.venv-oldest/constraints.txt $(MAKE) VENV=.venv-oldest .venv-oldest/test.stamp
	.venv-oldest/bin/pytest $(TWO)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venv-oldest build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "Python's venv is needed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/app.stamp: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -r requirements.txt -e .
	@touch $@

$(VENV)/test.stamp: requirements-dev.txt $(VENV)/app.stamp
	$(BIN)/python -m pip install -r requirements-dev.txt
	@touch $@
