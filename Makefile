# SPDX-License-Identifier: Apache-2.0

GO ?= go
export CGO_ENABLED = 0
BIN = bin/tandem

.PHONY: build demo test check audit unit arm64 e2e chaos chaos-cluster chaos-postgres chaos-fio suspicion slow-backup sim fuzz mutants model bench bench-ft netbench tools packages reproducible

# What the program says of its source. A source without git says nothing.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
DATE ?= $(shell TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null)
LDFLAGS = -X tandem/cli.version=$(VERSION) -X tandem/cli.commit=$(COMMIT) -X tandem/cli.date=$(DATE)

build: ## the tandem binary
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/tandem

demo: build ## boot a fault-tolerant pair, kill the primary, lose nothing
	$(BIN) demo $(DEMO)

test: tools check unit e2e ## all tests

check: ## formatting, vet, a host without a translator, known vulnerabilities
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "run gofmt on:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./... && $(GO) vet -tags e2e ./e2e
	GOARCH=riscv64 $(GO) build -o /dev/null ./cmd/tandem
	@if curl -fsSo /dev/null --max-time 10 $(VULNDB)/index/db.json 2>/dev/null; then $(MAKE) audit; \
		else echo "NOT DONE: make audit. $(VULNDB) can't be reached from here, so nobody looked for known vulnerabilities"; fi

GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULNDB ?= https://vuln.go.dev
audit: ## known vulnerabilities of the functions that we call, by Go's database of them
	$(GO) run $(GOVULNCHECK) -db $(VULNDB) ./...

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
	TANDEM=$(CURDIR)/$(BIN) TANDEM_CHAOS=$(N) $(GO) test -tags e2e -timeout 24h -v -run 'TestChaos$$' ./e2e/

# Clusters in a simulated world: one seed with its story, SEEDS seeds from one on, or as
# many as make HOURS simulated hours. The garbage collector may take its time.
SEED ?= 0
SEEDS ?= $(if $(filter command line,$(origin SEED)),1,1000)
sim: ## whole clusters among faults: SEED=n, SEEDS=n, HOURS=h
	GOGC=800 $(GO) test -count=1 -timeout 0 -v ./sim/vopr -args -seed $(SEED) \
		$(if $(HOURS),-hours $(HOURS),-seeds $(SEEDS)) $(if $(filter 1,$(SEEDS)),-trace)

# Finds the targets by itself. A failing input is in testdata/fuzz: keep it there as a test.
FUZZTIME ?= 10s
fuzz: ## each fuzz target of the tree for FUZZTIME; FUZZ=words picks some
	@grep -rno --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*$(if $(FUZZ),.*$(FUZZ))' . | sed 's|/[^/]*_test.go:[0-9]*:func | |' | sort -u | while read dir target; do \
		echo "$$dir $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$dir || exit 1; done

mutants: ## plant known bugs, one at a time: the tests must find each; MUTANT=words picks some
	$(GO) run ./mutants -run '$(MUTANT)'

# Each property of the model holds; without any one of the rules one does not.
model: TOOLS = spin gcc libc6-dev
model: tools ## check the model of the protocol, ft/golive.pml
	@mkdir -p bin/model && cd bin/model && \
	pan() { spin -a $$1 $(CURDIR)/ft/golive.pml >/dev/null 2>&1; gcc -O1 $$2 -o pan pan.c && ./pan -m300000 $$3 >out; grep -o 'errors: [0-9]*' out; }; \
	says() { printf '%-36s %s\n' "$$1" "$$2"; test "$$2" = "errors: $$3" || exit 1; }; \
	says 'safety' "$$(pan '' '-DSAFETY -DNOCLAIM')" 0; \
	for p in goes_on takes_over; do says $$p "$$(pan '' -DNFAIR=3 "-a -f -N $$p")" 0; done; \
	for r in ACK LEASE ECHO TIMEOUT CLAIM ACTIVATE HOLD LEAVING HALT; do \
		says "without the rule NO_$$r" "$$(pan -DNO_$$r '-DSAFETY -DNOCLAIM')" 1; done

chaos-cluster: build ## lose a host of three, N times, under a client's load; as root
	TANDEM=$(CURDIR)/$(BIN) TANDEM_CHAOS=$(N) $(GO) test -tags e2e -timeout 24h -v -run TestChaosCluster ./e2e/

# SEED=n repeats the moments of the kills, TANDEM_KEEP=DIR keeps all files of a failure.
SIEGE = TANDEM=$(CURDIR)/$(BIN) TANDEM_CHAOS=$(N) $(if $(filter command line,$(origin SEED)),TANDEM_SEED=$(SEED)) $(GO) test -tags e2e -timeout 24h -v
chaos-postgres: build ## kill the primary N times under PostgreSQL: no acknowledged commit is lost
	$(SIEGE) -run TestChaosPostgres ./e2e/

chaos-fio: build ## kill the primary N times under fio with verify=crc32c: no mismatch
	$(SIEGE) -run TestChaosFio ./e2e/

MINUTES ?= 10
suspicion: build ## stop replicas for up to 200 ms again and again on busy cores, for MINUTES; as root
	TANDEM=$(CURDIR)/$(BIN) TANDEM_MINUTES=$(MINUTES) $(GO) test -tags e2e -timeout 24h -v -run TestSuspicion ./e2e/

slow-backup: build ## slow a backup by a control group: the lag, the CPU share and a client's waits; as root
	TANDEM=$(CURDIR)/$(BIN) $(GO) test -tags e2e -timeout 20m -v -run TestSlowBackup ./e2e/

bench: TOOLS = gcc libc6-dev gcc-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-system-misc
bench: tools build ## time the benchmark programs here, in tandem and in QEMU; flags in BENCH
	$(GO) run ./bench --tandem $(CURDIR)/$(BIN) $(BENCH)

bench-ft: build ## what a backup costs, beside the table of the paper; flags in FT
	$(GO) run ./bench/ft --tandem $(CURDIR)/$(BIN) $(FT)

netbench: TOOLS = iperf3 iputils-ping e2fsprogs
netbench: tools build ## iperf3 and pings with and without a backup, as root; flags in NETBENCH
	$(GO) run ./bench/netbench --tandem $(CURDIR)/$(BIN) $(NETBENCH)

# A program like this needs no C library, so a package is for any distribution.
NFPM = github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0
ARCHES ?= amd64 arm64 riscv64
DIST ?= dist
PACKAGE_VERSION ?= $(shell git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//' | grep . || \
	echo 0.0.0~git$(shell TZ=UTC git log -1 --format=%cd --date=format-local:%Y%m%d%H%M%S 2>/dev/null).$(shell git rev-parse --short=12 HEAD 2>/dev/null))
packages: build ## .deb and .rpm, for each of ARCHES, in DIST: the same source gives the same bytes
	rm -rf $(DIST) && mkdir -p $(DIST)/man $(DIST)/completion
	for a in $(ARCHES); do \
		GOARCH=$$a $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid= $(LDFLAGS)' -o $(DIST)/$$a/tandem ./cmd/tandem || exit 1; \
	done
	$(BIN) man $(DIST)/man && gzip -n9 $(DIST)/man/*.1
	for s in bash:tandem.bash zsh:_tandem fish:tandem.fish; do \
		$(BIN) completion $${s%%:*} >$(DIST)/completion/$${s#*:} || exit 1; \
	done
	GOBIN=$(CURDIR)/bin $(GO) install $(NFPM)
	for a in $(ARCHES); do \
		sed 's|@ARCH@|'$$a'|g; s|@VERSION@|$(PACKAGE_VERSION)|; s|@DIST@|$(DIST)|' packaging/nfpm.yaml >$(DIST)/$$a/nfpm.yaml; \
		for kind in deb rpm; do \
			env SOURCE_DATE_EPOCH=$$(date -d $(DATE) +%s) bin/nfpm package --config $(DIST)/$$a/nfpm.yaml --packager $$kind --target $(DIST) || exit 1; \
		done; \
	done
	cd $(DIST) && sha256sum */tandem *.deb *.rpm >SHA256SUMS

reproducible: ## build the packages twice, in two folders and with no cache in common, and compare
	rm -rf $(DIST)-again && mkdir -p $(DIST)-again/source && git archive HEAD | tar -x -C $(DIST)-again/source
	$(MAKE) packages
	$(MAKE) -C $(DIST)-again/source packages GOCACHE=$(CURDIR)/$(DIST)-again/cache \
		VERSION=$(VERSION) COMMIT=$(COMMIT) DATE=$(DATE) PACKAGE_VERSION=$(PACKAGE_VERSION)
	diff $(DIST)/SHA256SUMS $(DIST)-again/source/$(DIST)/SHA256SUMS
	rm -rf $(DIST)-again

# Debian packages that the tests use beside Go: oracles and standard clients.
TOOLS = qemu-user gcc-riscv64-linux-gnu libc6-dev-riscv64-cross binutils-riscv64-linux-gnu binutils \
	binutils-aarch64-linux-gnu device-tree-compiler e2fsprogs fdisk libarchive-tools nbdkit qemu-utils libnbd-bin opensbi u-boot-qemu chromium
tools: ## install what the tests (or the benchmark) need, as root; otherwise name it
	@missing=$$(for p in $(TOOLS); do dpkg-query -W -f '$${Status}\n' $$p 2>/dev/null | grep -q 'install ok installed' || echo $$p; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing:" $$missing; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else \
		echo "these Debian packages are needed:" $$missing; echo "install them: apt-get install" $$missing; exit 1; \
	fi
