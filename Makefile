# The few verbs of this repository. Each sets up what it needs; none needs an account.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.set-up

# Where the Pulumi CLI is installed the stack is production; elsewhere only the rehearsal can be there.
STACK   ?= $(if $(shell command -v pulumi),prod,rehearsal)
ENGINE   = $(if $(filter rehearsal,$(STACK)),$(BIN)/python -m rehearsal,pulumi)

.DEFAULT_GOAL := help
.PHONY: help setup deploy rollback status rehearse test test-program lint bench faults serve down reset kubeconfig

help: ## what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## the virtualenv with everything in it

$(STAMP): requirements.txt requirements-ops.txt requirements-rehearsal.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV) (once, about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-rehearsal.txt
	@touch $@

rehearse: $(STAMP) ## preview and deploy the whole production on this machine (IMAGES=1: with real images)
	@$(BIN)/python -m rehearsal $(if $(IMAGES),--images)

deploy: $(STAMP) ## release the application (SHA=237c6b8: an image that is there; SERVICE=api: it alone; YES=1)
	@$(BIN)/python -m ops deploy --stack $(STACK) $(if $(SHA),--sha $(SHA)) $(if $(SERVICE),--service $(SERVICE)) $(if $(YES),--yes)

rollback: $(STAMP) ## bring the last good release back (TO=12 or TO=1a2b3c4: that one; SERVICE=api: it alone; YES=1)
	@$(BIN)/python -m ops rollback --stack $(STACK) $(if $(TO),--to $(TO)) $(if $(SERVICE),--service $(SERVICE)) $(if $(YES),--yes)

status: $(STAMP) ## is production well, and if not, why
	@$(BIN)/python -m ops status --stack $(STACK)

test: $(STAMP) ## every test (starts a real Kubernetes, a registry and a builder)
	@$(BIN)/python -m rehearsal.cluster.binaries
	@[ -n "$$HONEYDUE_WITHOUT_IMAGES" ] || $(BIN)/python -m rehearsal.registry.binaries
	@$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-program: $(STAMP) ## the program's own tests: seconds, no Go, no network
	@$(BIN)/python -m pytest tests/program tests/settings

lint: $(STAMP) ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(STAMP) ## measure speed and memory, and write docs/benchmarks.md (three quarters of an hour)
	@$(BIN)/python -m rehearsal.cluster.binaries
	@$(BIN)/python -m bench

faults: $(STAMP) ## break everything that can break, and write docs/faults.md (half an hour)
	@$(BIN)/python -m rehearsal.cluster.binaries
	@$(BIN)/python -m tests.faults

serve: $(STAMP) ## the vendors' stand-ins, and the environment for `pulumi up -s rehearsal`
	@$(BIN)/python -m rehearsal serve

down: $(STAMP) ## end every process of the rehearsal, keep its state
	@$(BIN)/python -m rehearsal down

reset: $(STAMP) ## end every process of the rehearsal and forget its state
	@$(BIN)/python -m rehearsal reset

kubeconfig: $(STAMP) ## write the kubeconfig of STACK to ~/.kube/honeydue-k3s.yaml (mode 0600)
	@umask 077 && mkdir -p ~/.kube \
	  && $(ENGINE) stack output kubeconfig --show-secrets --stack $(STACK) > ~/.kube/honeydue-k3s.yaml.new \
	  && mv ~/.kube/honeydue-k3s.yaml.new ~/.kube/honeydue-k3s.yaml \
	  && echo "wrote ~/.kube/honeydue-k3s.yaml for the stack $(STACK)" \
	  || { rm -f ~/.kube/honeydue-k3s.yaml.new; exit 1; }
