# imgd: everything that is built lands in bin/. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := $(CURDIR)/bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# More flags for every `go test`, as in: make test TESTFLAGS='-v -run TestSettle'
TESTFLAGS ?=

STATICCHECK_VERSION := v0.8.2
GOLANGCI_VERSION := v2.15.0
CRANE_VERSION := v0.22.1

# The binaries of other projects that imgd runs or is tested with, pinned in tools/go.mod.
TOOLS := buildkitd buildctl containerd containerd-shim-runc-v2 ctr

# Debian packages that must be there to run imgd, and those that only the tests use.
DEPS := runc git busybox-static ca-certificates util-linux
TEST_DEPS := gcc libc6-dev openssh-client strace systemd

# How long the integration tests may take. They build and run real images on two cores.
INTEGRATION_TIMEOUT ?= 25m
SOAK_TIMEOUT ?= 3h

.PHONY: help
help: ## Show the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build imgd, imgctl and publish into bin/
	@echo "building imgd $(VERSION)"
	@CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN)/ ./cmd/...

.PHONY: tools
tools: $(TOOLS:%=$(BIN)/%) ## Build buildkitd, buildctl, containerd, its shim and ctr into bin/

.PHONY: deps
deps: ## Install what is missing from the system (runc, git, busybox-static, ...), or name it
	@tools/deps.sh $(DEPS)

# What only the tests need: a C compiler for the race detector, strace to see what is fsynced, ssh for the stand-in of a base
# image, systemd-analyze for the unit, and a registry of another generation.
.PHONY: test-deps
test-deps: $(BIN)/docker-registry
	@tools/deps.sh $(DEPS) $(TEST_DEPS)

.PHONY: demo
demo: deps tools build ## From a commit to an image, a record and an event (KEEP=1 leaves it running)
	@cd integration && IMGD_BIN=$(BIN) go run ./demo

.PHONY: test
test: race integration ## Run all tests: unit tests with the race detector, then the real parts together

.PHONY: race
race: test-deps tools
	go test -race -shuffle=on $(TESTFLAGS) ./...

.PHONY: integration
integration: test-deps tools build ## Run the tests of integration/ only
	cd integration && IMGD_BIN=$(BIN) go test -shuffle=on -count=1 -timeout $(INTEGRATION_TIMEOUT) $(TESTFLAGS) ./...

# `make check test` runs the unit tests once: both ask for the same target.
# Hours of luck against imgd, not minutes: commands in any order against a model of the index, slow drivers of tags in any
# order, random registries collected beside pushes, random kills, bursts of webhooks, and clean-ups. The seed is printed;
# SOAK_SEED repeats it, SOAK_KILLS, SOAK_DELIVERIES and SOAK_KEEPS say how many.
.PHONY: soak
soak: test-deps tools build ## Run the long tests: thousands of random commands, interleavings, registries, kills, webhooks and clean-ups (SOAK_SEED, SOAK_KILLS, SOAK_DELIVERIES, SOAK_KEEPS, SOAK_FAULTS)
	go test -run TestMachine -count=1 -timeout $(SOAK_TIMEOUT) $(TESTFLAGS) ./index -rapid.checks=10000 $(SOAK_SEED:%=-rapid.seed=%)
	go test -run TestSlowDrivers -count=1 -timeout $(SOAK_TIMEOUT) $(TESTFLAGS) . -interleavings 40000 $(SOAK_SEED:%=-seed %)
	go test -run TestRandomGraphs -count=1 -timeout $(SOAK_TIMEOUT) $(TESTFLAGS) ./internal/embedded -graphs 2000 $(SOAK_SEED:%=-seed %)
	cd integration && IMGD_BIN=$(BIN) go test -tags soak -run Soak -count=1 -v -timeout $(SOAK_TIMEOUT) $(TESTFLAGS) .

# As in: make bench ONLY=intake
ONLY ?= .
.PHONY: bench
bench: deps tools build $(BIN)/.crane-$(CRANE_VERSION) ## Measure imgd beside its peers into bin/bench.jsonl (ONLY=regexp chooses)
	@cd integration && IMGD_BIN=$(BIN) go run ./bench -only '$(ONLY)' -out $(BIN)/bench.jsonl

.PHONY: check
check: lint race ## Check formatting, vet, linters, go.mod files, and run the unit tests

.PHONY: lint
lint: $(BIN)/.staticcheck-$(STATICCHECK_VERSION) $(BIN)/.golangci-lint-$(GOLANGCI_VERSION)
	@echo "gofmt"; files=$$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l); \
	  [ -z "$$files" ] || { echo "gofmt -w is needed for:"; echo "$$files"; exit 1; }
	@for module in . integration; do \
	  for run in "go vet" $(BIN)/staticcheck "$(BIN)/golangci-lint run --config $(CURDIR)/.golangci.yml"; do \
	    echo "$${run##*/bin/} ($$module)"; (cd $$module && $$run ./...); \
	  done; \
	done
	@for module in . integration tools; do echo "go mod tidy -diff ($$module)"; go -C $$module mod tidy -diff; done

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BIN)

# --- the tools, built again when their pins change -------------------------------------------------------------------

tool_version = $(shell go -C tools list -m -f '{{.Version}}' $(1))
containerd_pkg := github.com/containerd/containerd/v2

# Without -X, buildkitd calls itself v0.0.0+unknown, and clients decide by that version.
define build_tool
$(BIN)/$(1): tools/go.mod tools/go.sum
	@echo "building $(1) $$(call tool_version,$(2))$(4)"
	@CGO_ENABLED=0 go -C tools build -trimpath -tags "osusergo netgo static_build seccomp" \
	  -ldflags "-s -w -X $(2)/version.Version=$$(call tool_version,$(2))" -o $$@ $(3)
	@touch $$@
endef
$(eval $(call build_tool,buildkitd,github.com/moby/buildkit,github.com/moby/buildkit/cmd/buildkitd, (about 2 minutes the first time)))
$(eval $(call build_tool,buildctl,github.com/moby/buildkit,github.com/moby/buildkit/cmd/buildctl))
$(eval $(call build_tool,containerd,$(containerd_pkg),$(containerd_pkg)/cmd/containerd, (about 1 minute the first time)))
$(eval $(call build_tool,containerd-shim-runc-v2,$(containerd_pkg),$(containerd_pkg)/cmd/containerd-shim-runc-v2))
$(eval $(call build_tool,ctr,$(containerd_pkg),$(containerd_pkg)/cmd/ctr))

$(BIN)/docker-registry: tools/docker-registry.sh
	@mkdir -p $(BIN) && tools/docker-registry.sh $@ && touch -h $@

$(BIN)/.staticcheck-$(STATICCHECK_VERSION):
	@echo "installing staticcheck $(STATICCHECK_VERSION)"
	@rm -f $(BIN)/.staticcheck-*; GOBIN=$(BIN) go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION); touch $@

$(BIN)/.golangci-lint-$(GOLANGCI_VERSION):
	@echo "installing golangci-lint $(GOLANGCI_VERSION) (about 2 minutes the first time)"
	@rm -f $(BIN)/.golangci-lint-*; GOBIN=$(BIN) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION); touch $@

# A peer that only the benchmarks run.
$(BIN)/.crane-$(CRANE_VERSION):
	@echo "installing crane $(CRANE_VERSION)"
	@rm -f $(BIN)/.crane-*; GOBIN=$(BIN) go install github.com/google/go-containerregistry/cmd/crane@$(CRANE_VERSION); touch $@
