# What CI runs is `make ci`; everything else here is a part of it or a
# convenience. Emulation needs root and what `make setup` installs.

GO      ?= go
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
export CGO_ENABLED ?= 0

CONTROLLER_LDFLAGS = -s -w -X main.version=$(VERSION)
AGENT_LDFLAGS      = -s -w -X main.version=$(VERSION)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  \1\t/' | expand -t 14

.PHONY: demo
demo: $(if $(filter 1,$(CLUSTER)),demo-announce) setup build ## Take two emulated machines from powered off to SSH; CLUSTER=1: one, to a node with Prometheus; KEEP=1: leave them up, with a dashboard (root)
	GO='$(GO)' CLUSTER='$(CLUSTER)' rack/demo.sh

.PHONY: demo-announce
demo-announce:
	@rack/demo.sh announce

.PHONY: setup
setup: ## Install the Debian packages that emulation and image building need (root)
	rack/setup.sh

.PHONY: build
build: ## Build bin/edge-provision and bin/edge-agent, static and without cgo
	$(GO) build -trimpath -ldflags '$(CONTROLLER_LDFLAGS)' -o bin/edge-provision ./cmd/edge-provision
	GOOS=linux $(GO) build -trimpath -ldflags '$(AGENT_LDFLAGS)' -o bin/edge-agent ./cmd/edge-agent

.PHONY: kubernetes
kubernetes: ## Build the real Kubernetes, etcd and the stand-in for K3s that tests run, into the cache
	GO='$(GO)' rack/standin/build.sh

.PHONY: workload
workload: ## Build the real Prometheus and its exporters, and stand-ins for images, that pods of tests run
	GO='$(GO)' rack/workload/build.sh

.PHONY: test-standin
test-standin: ## The tests of the stand-ins, which are modules of their own
	cd rack/standin && $(GO) test ./calico ./k3s
	cd rack/workload && $(GO) test ./standin

.PHONY: test
test: ## All tests that need neither root nor emulation (RACE=1: under the race detector)
	CGO_ENABLED=$(if $(RACE),1,0) $(GO) test -timeout 20m $(if $(RACE),-race) ./...

# gotestsum tells again at the end what failed in an hour of output.
.PHONY: e2e
e2e: setup build kubernetes workload bin/gotestsum ## End-to-end scenarios in emulated machines and in containers (root)
	bin/gotestsum --format standard-verbose --hide-summary skipped --raw-command -- $(GO) test -json -tags e2e -count 1 -p 1 -timeout 75m $(E2E_FLAGS) ./rack/scenario
	$(if $(E2E_FLAGS),,$(GO) test -tags e2e -count 1 -timeout 10m ./inventory/dashboard)
	$(if $(E2E_FLAGS),,$(GO) test -tags e2e -count 1 -timeout 15m -run '^Test(KillAtEveryBoundaryOf|NothingIsDoneToACluster|CurlAsksTheAPI|AnsibleReadsTheInventory|PrometheusDiscoversMachines|SystemdRunsTheUnits|TheHardenedUnitServesANetwork)' ./cmd/edge-provision)

.PHONY: e2e-packages
e2e-packages: setup build ## The packages' own tests on real firmware, kernels and networks; prints the time of each (root)
	$(GO) test -tags e2e -count 1 -p 1 -timeout 60m ./rack ./pxe ./imagebuilder ./workflows/agent/boot ./workflows/steps
	$(GO) test -tags e2e -count 1 -timeout 10m -run '^TestASinkCounts' ./rack/host
	$(GO) test -tags e2e -count 1 -timeout 10m -run '^TestOfflineMeansOffline$$' ./cmd/edge-provision
	$(GO) test -tags e2e -count 1 -timeout 10m ./inventory/dashboard

.PHONY: differential
differential: ## Ask 10,000 random expressions in memory, SQLite and PostgreSQL, and compare (about two minutes)
	EDGE_TEST_EXPRESSIONS=10000 $(GO) test -count 1 -timeout 20m -v -run '^TestMemoryAndDatabasesAgree$$' ./inventory/query

.PHONY: bench
bench: setup build ## Measure the main job by phases, and the packages against their floors (root)
	rm -f bin/bench.txt
	EDGE_BENCH=$(CURDIR)/bin/bench.txt $(GO) test -tags e2e -count 1 -p 1 -timeout 45m -run TestMeasure ./rack/scenario ./imagebuilder ./inventory/query ./inventory/store
	cat bin/bench.txt
	$(GO) test -run '^$$' -bench . ./imagebuilder/... ./pxe/... ./inventory/...

.PHONY: bench-million
bench-million: setup ## Measure pages of a catalog of 1,000,000 machines on PostgreSQL (an hour or less)
	mkdir -p bin && rm -f bin/bench-million.txt
	EDGE_BENCH=$(CURDIR)/bin/bench-million.txt EDGE_BENCH_MACHINES=1000000 $(GO) test -count 1 -timeout 12h -run '^TestMeasureCatalog$$/^postgres$$' ./inventory/query
	cat bin/bench-million.txt

.PHONY: fuzz
fuzz: ## Fuzz every parser of a stranger's bytes, FUZZTIME each (default 10s)
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg 2>/dev/null | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(or $(FUZZTIME),10s) -fuzzminimizetime 10x $$pkg; \
	  done; \
	done

.PHONY: lint
lint: bin/golangci-lint ## Format check and the few linters of .golangci.yml
	bin/golangci-lint run --build-tags e2e

bin/golangci-lint: tools/go.mod tools/go.sum
	cd tools && CGO_ENABLED=0 $(GO) build -o ../bin/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/gotestsum: tools/go.mod tools/go.sum
	cd tools && CGO_ENABLED=0 $(GO) build -o ../bin/ gotest.tools/gotestsum

.PHONY: generate
generate: ## Regenerate ent's client from its schema, and the JSON Schema of facts from their Go types
	$(GO) generate ./ent ./inventory/schema

.PHONY: check-generated
check-generated: generate ## Fail when generated code or go.mod is not current
	$(GO) mod tidy -diff
	@if [ -n "$$(git status --porcelain ent inventory/schema docs/facts.schema.json go.mod go.sum)" ]; then \
	  echo "generated code is not current; run 'make generate' and commit:"; git status --porcelain ent inventory/schema docs/facts.schema.json go.mod go.sum; exit 1; fi

.PHONY: ci
ci: lint check-generated kubernetes workload ## Everything CI checks, in its order
	$(MAKE) test-standin
	$(MAKE) test RACE=1
	$(MAKE) differential
	$(MAKE) e2e

.PHONY: clean
clean: ## Remove what the targets above have built
	rm -rf bin
