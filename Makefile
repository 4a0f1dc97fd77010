# SPDX-License-Identifier: Apache-2.0

GO ?= go
export CGO_ENABLED = 0
BIN = bin/tandem

.PHONY: build demo test check unit arm64 e2e chaos chaos-cluster suspicion slow-backup bench tools

build: ## the tandem binary
	$(GO) build -trimpath -o $(BIN) ./cmd/tandem

demo: build ## boot a fault-tolerant pair, kill the primary, lose nothing
	$(BIN) demo $(DEMO)

test: tools check unit e2e ## all tests

check: ## formatting and vet
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "run gofmt on:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./... && $(GO) vet -tags e2e ./e2e

unit: ## tests of packages
	$(GO) test -timeout 20m ./...
	$(MAKE) arm64

# What differs on an arm64 host, emulated; and logs go from amd64 to arm64 and back.
ARM64 = GOARCH=arm64 $(GO) test -exec qemu-aarch64
arm64:
	$(ARM64) ./machine/jit/native
	$(ARM64) -skip 'TestViews/NewAnonymous|TestAnonymousName' ./host/codemem # which this QEMU can't map twice
	$(ARM64) -short -run 'Lockstep[^D]|Translated' ./machine ./machine/oracle
	rm -rf bin/logs && mkdir -p bin/logs
	for run in "$(GO) test" "$(ARM64)" "$(GO) test"; do \
		env TANDEM_LOGS=$(CURDIR)/bin/logs $$run -count=1 -run TestAcrossHosts ./machine || exit 1; \
	done

e2e: build ## the whole system on this machine: a real kernel, a real socket, a real kill
	TANDEM=$(CURDIR)/$(BIN) $(GO) test -tags e2e -timeout 30m -v ./e2e/

N ?= 100
chaos: build ## kill a replica at N random moments of a load
	TANDEM=$(CURDIR)/$(BIN) TANDEM_CHAOS=$(N) $(GO) test -tags e2e -timeout 24h -v -run TestChaos ./e2e/

chaos-cluster: build ## lose a host of three, N times, under a client's load; as root
	TANDEM=$(CURDIR)/$(BIN) TANDEM_CHAOS=$(N) $(GO) test -tags e2e -timeout 24h -v -run TestChaosCluster ./e2e/

MINUTES ?= 10
suspicion: build ## stop replicas for up to 200 ms again and again on busy cores, for MINUTES; as root
	TANDEM=$(CURDIR)/$(BIN) TANDEM_MINUTES=$(MINUTES) $(GO) test -tags e2e -timeout 24h -v -run TestSuspicion ./e2e/

slow-backup: build ## slow a backup by a control group: the lag, the CPU share and a client's waits; as root
	TANDEM=$(CURDIR)/$(BIN) $(GO) test -tags e2e -timeout 20m -v -run TestSlowBackup ./e2e/

bench: TOOLS = gcc libc6-dev gcc-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-system-misc
bench: tools build ## time the benchmark programs here, in tandem and in QEMU; flags in BENCH
	$(GO) run ./bench --tandem $(CURDIR)/$(BIN) $(BENCH)

# Debian packages that the tests use beside Go: oracles and standard clients.
TOOLS = qemu-user gcc-riscv64-linux-gnu libc6-dev-riscv64-cross binutils-riscv64-linux-gnu binutils \
	binutils-aarch64-linux-gnu device-tree-compiler e2fsprogs nbdkit qemu-utils libnbd-bin opensbi u-boot-qemu
tools: ## install what the tests (or the benchmark) need, as root; otherwise name it
	@missing=$$(for p in $(TOOLS); do dpkg-query -W -f '$${Status}\n' $$p 2>/dev/null | grep -q 'install ok installed' || echo $$p; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing:" $$missing; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else \
		echo "these Debian packages are needed:" $$missing; echo "install them: apt-get install" $$missing; exit 1; \
	fi
