# MailRelay's tasks; `make help` lists them. All of them need Python, make and a package index, and
# nothing else: the first one makes .venv from requirements-dev.lock.
#
# make answers any failure with its own exit code 2. Who needs the relay's exit code starts
# `.venv/bin/mailrelay run` itself, after `make venv`.

PYTHON ?= python3
UV_VERSION := 0.13.9
ARGS ?=
TESTS ?= tests

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
RELAY := lib services/ingress services/sender services/monitor cli
MEMBERS := $(RELAY) operator
PROJECTS := $(addsuffix /pyproject.toml,$(MEMBERS))

# Where a target looks for tests, unless ARGS names files or folders of them.
where = $(if $(filter tests/%,$(ARGS)),,$(1))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-15s %s\n", $$1, $$2}'
	@echo
	@echo '  ARGS="..." passes arguments on: make run ARGS="--help", make test ARGS="-k address -n 0"'
	@echo '  PYTHON=python3.13 chooses the Python that .venv is made with'

.PHONY: run
run: $(STAMP) ## Run the relay on this machine, with a nats-server of its own
	@exec $(BIN)/mailrelay run $(ARGS)

.PHONY: test
test: nats-server ## Run the tests that need only Python and the network
	$(BIN)/pytest $(call where,$(TESTS)) -m "not peers and not compose and not chaos and not crash and not operator and not cluster and not prometheus" -n 4 $(ARGS)

.PHONY: test-peers
test-peers: nats-server ## Run the tests against other mail servers (needs Postfix)
	$(BIN)/pytest $(call where,tests) -m peers $(ARGS)

.PHONY: test-compose
test-compose: $(STAMP) ## Build the images and try them (needs Docker, or root and Debian's docker.io)
	$(BIN)/python -m tests.compose.engine $(BIN)/pytest $(call where,tests/compose) -m compose $(ARGS)

.PHONY: test-in-image
test-in-image: $(STAMP) ## Run make test on the images' Python (needs what test-compose needs)
	$(BIN)/python -m tests.compose.engine $(BIN)/python -m tests.compose.suite $(ARGS)

.PHONY: test-operator
test-operator: kubernetes ## Run the operator's and the chart's tests on a real API server (no node)
	$(BIN)/pytest $(call where,tests/operator tests/chart) -m operator -n 2 $(ARGS)

.PHONY: test-cluster
test-cluster: $(STAMP) ## Run a relay's pods on a Kubernetes node of its own (needs root and packages)
	$(BIN)/python -m tests.support.kubernetes.machine $(BIN)/pytest $(call where,tests/cluster) -m "cluster and not patience" $(ARGS)

.PHONY: test-prometheus
test-prometheus: nats-server prometheus ## Ask a real Prometheus what dashboard and alerts ask
	$(BIN)/pytest $(call where,tests/prometheus) -m prometheus $(ARGS)

.PHONY: chaos
chaos: nats-server ## Let everything fail while mail flows, and count
	$(BIN)/pytest $(call where,tests) -m chaos $(ARGS)

.PHONY: crash
crash: nats-server ## Kill a process after each step of each walk through the queue
	$(BIN)/pytest $(call where,tests) -m crash -s $(ARGS)

.PHONY: bench
bench: nats-server ## List the benchmarks; ARGS=NAME runs one
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: model
model: $(STAMP) ## Explore the model of the queue's protocol
	$(BIN)/python -m tests.model $(ARGS)

.PHONY: lint
lint: $(STAMP) ## Check style, types and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMP) ## Format the code, and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: docs
docs: $(STAMP) ## Write docs/reference from the code
	$(BIN)/python -m tools.reference

.PHONY: manifests
manifests: $(STAMP) ## Write dist/mailrelay.yaml, all of the chart for kubectl (ARGS="--set …" for values)
	@helm=$$($(BIN)/python -m tests.support.kubernetes.programs helm) && \
		$(BIN)/python -m tools.chart.manifests "$$helm" dist/mailrelay.yaml $(ARGS)

# Hashes, but no index: the locks are the same whichever mirror they were made with. The operator's
# packages are in a lock of their own: the relay's images have no use for a Kubernetes client.
COMPILE = $(with_pip_settings) $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-package mailrelay \
	--custom-compile-command "make lock" $(ARGS)

.PHONY: lock
lock: $(BIN)/uv ## Write all locks anew (ARGS=--upgrade for newer versions)
	@$(COMPILE) $(addsuffix /pyproject.toml,$(RELAY)) --output-file requirements.lock
	@$(COMPILE) operator/pyproject.toml --constraints requirements.lock --output-file requirements-operator.lock
	@$(COMPILE) $(PROJECTS) --constraints requirements-operator.lock --constraints requirements.lock --group dev --output-file requirements-dev.lock
	@$(COMPILE) --group image --output-file requirements-image.lock
	@$(COMPILE) --group go --output-file requirements-go.lock

.PHONY: venv
venv: $(STAMP) ## Make or update .venv

.PHONY: nats-server
nats-server: $(STAMP) ## Find, fetch or build nats-server, and print its path
	@$(BIN)/python -m mailrelay_cli.nats_server

.PHONY: kubernetes
kubernetes: $(STAMP) ## Find or build etcd, kube-apiserver, Helm and what the operator's tests need
	@$(BIN)/python -m tests.support.kubernetes.programs $(PROGRAMS)

.PHONY: prometheus
prometheus: $(STAMP) ## Find or build Prometheus and promtool
	@$(BIN)/python -m tests.support.kubernetes.programs prometheus promtool

.PHONY: clean
clean: ## Remove .venv and what the tools left behind
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# uv reads none of pip's settings; whoever has told pip where packages come from need not say it
# twice. What is set for uv itself goes first. (A find-links folder that is missing is nothing to
# pip and an error to uv.)
define with_pip_settings
eval "$$($(BIN)/python -m pip config list | sed -n "s/^[^.]*\.\([a-z-]*\)='\(.*\)'$$/\1 \2/p" | { \
	while read -r key value; do case $$key in \
		index-url) echo ": \$${UV_DEFAULT_INDEX:='$$value'}; export UV_DEFAULT_INDEX;" ;; \
		extra-index-url) echo ": \$${UV_INDEX:='$$value'}; export UV_INDEX;" ;; \
		cert) echo ": \$${SSL_CERT_FILE:='$$value'}; export SSL_CERT_FILE;" ;; \
		timeout|default-timeout) echo ": \$${UV_HTTP_TIMEOUT:='$$value'}; export UV_HTTP_TIMEOUT;" ;; \
		proxy) echo ": \$${ALL_PROXY:='$$value'}; export ALL_PROXY;" ;; \
		find-links) if [ -d "$$value" ]; then echo ": \$${UV_FIND_LINKS:='$$value'}; export UV_FIND_LINKS;"; fi ;; \
	esac; done; })";
endef

# A .venv whose Python has gone is made anew.
$(BIN)/uv: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "MailRelay needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1). Try make PYTHON=python3.13" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(STAMP): $(BIN)/uv requirements-dev.lock pyproject.toml $(PROJECTS)
	@$(with_pip_settings) $(BIN)/uv pip sync --quiet --require-hashes requirements-dev.lock
	@$(with_pip_settings) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation $(addprefix --editable ,$(MEMBERS))
	@touch $@
