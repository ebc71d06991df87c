# The benchmarks and the services they compare with. The Makefile includes this file at its end, after
# clients/clients.mk.

# The Go service needs Go and gcc; without them the benchmark omits it. The first build compiles SQLite,
# which takes a minute.
GO_RIVAL := $(if $(and $(shell command -v go 2>/dev/null),$(shell command -v gcc 2>/dev/null)),$(TOOLS)/rival-go)

$(TOOLS)/rival-go: $(wildcard bench/rivals/go/*.go bench/rivals/go/go.*) $(GO_STUBS)
	cd bench/rivals/go && CGO_ENABLED=1 go vet . && CGO_ENABLED=1 go build -o "$(CURDIR)/$@" .

.PHONY: bench bench-quick
bench: $(VENV)/.dev $(GO_RIVAL) ## measure the cost of requests against an empty RPC and other services; 15 minutes, into docs/bench
	$(BIN)/python -m bench.speed --into docs/bench

bench-quick: $(VENV)/.dev $(GO_RIVAL) ## measure the same in some 3 minutes, less exactly, into .build/bench
	$(BIN)/python -m bench.speed --quick --into .build/bench

.PHONY: bench-soak
bench-soak: $(VENV)/.dev ## a million Gets and 200,000 cancelled calls on each engine, with the memory at each tenth; 15 minutes
	$(BIN)/python -m bench.soak --engine grpcio
	$(BIN)/python -m bench.soak --engine h2corn

BASE ?= HEAD
ENGINE ?= grpcio
.PHONY: bench-compare
bench-compare: $(VENV)/.dev ## what reads cost here ÷ at another commit, in one run of 3 minutes; BASE=commit ENGINE=h2corn
	rm -rf .build/bench/base && mkdir -p .build/bench/base
	git archive $(BASE) src | tar -x -C .build/bench/base
	$(BIN)/python -m bench.compare --engine $(ENGINE) .build/bench/base/src

.PHONY: bench-postgres
bench-postgres: $(VENV)/.dev ## compare PostgreSQL with SQLite; a minute, into docs/bench
	$(BIN)/python -m bench.postgres --into docs/bench/postgres.md
