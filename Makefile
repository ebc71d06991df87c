# make serve   run the service on sample data
# make test    run all checks: lint, types, protos, generated code, tests
# make help    list all targets

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TOOLS  := .build/bin
DB     ?= interactions.db
SERVE  ?=
PYTEST ?=

NODE_MODULES := tests/node/node_modules/.stamp tests/browser/node_modules/.stamp

GRPCURL_VERSION   := v1.9.4
KUSTOMIZE_VERSION := v5.7.1

.DEFAULT_GOAL := help
.PHONY: help serve test lint types protos protos-baseline generate check-generated pytest overload format clean

help: ## list the targets
	@cat $(MAKEFILE_LIST) | sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' | column -t -s '|'

serve: $(VENV)/.runtime $(DB) ## run the service on sample data; DB=file, SERVE='more flags'
	$(BIN)/interaction-svc serve --store sqlite:///$(DB) --examples $(SERVE)

$(DB): | $(VENV)/.runtime
	@exec 9> $(DB).part.lock; \
	$(BIN)/python -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2> /dev/null \
	  || { echo "another make is filling $(DB): wait until it has ended"; exit 1; }; \
	if [ -e $(DB).part ]; then echo "$(DB).part was left by a make that was killed, and is replaced"; fi; \
	rm -f $(DB).part $(DB).part-wal $(DB).part-shm $(DB).part-journal; \
	set -x; \
	$(BIN)/interaction-svc import --store sqlite:///$(DB).part samples/*.json samples/*.jsonl \
	  && mv $(DB).part $(DB) && rm $(DB).part.lock

test: lint types protos check-generated pytest ## run all checks: lint, types, protos, generated code, tests

lint: $(VENV)/.dev ## check style and likely faults
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(VENV)/.dev ## check types strictly, in src and tests
	$(BIN)/mypy

protos: $(VENV)/.dev ## check lint, format and compatibility of the protos, offline
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking protos --against protos/baseline.txtpb

protos-baseline: $(VENV)/.dev ## record the current API as the baseline of `make protos`
	$(BIN)/buf build protos --exclude-source-info --type interaction_svc.v1 -o protos/baseline.txtpb

PROTO_V1       := $(wildcard protos/interaction_svc/v1/*.proto)
PROTO_INTERNAL := $(wildcard protos-internal/interaction_svc/internal/v1/*.proto)
PROTOC          = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc \
                  -Iprotos -Iprotos-internal -Ithird_party/googleapis
# clients/go/go.mod pins the plugins for Go as its tools.
GO_PLUGINS     := $(if $(shell command -v go 2>/dev/null),$(TOOLS)/protoc-gen-go)
OUT            ?= .

generate: $(VENV)/.dev $(GO_PLUGINS) ## generate the Python stubs in src/ and the Go stubs in gen/ from protos/
	rm -f $(OUT)/src/interaction_svc/v1/*_pb2* $(OUT)/src/interaction_svc/internal/v1/*_pb2*
	$(PROTOC) --python_out=$(OUT)/src --mypy_out=quiet:$(OUT)/src $(PROTO_V1) $(PROTO_INTERNAL)
	$(PROTOC) --grpc_python_out=$(OUT)/src --mypy_grpc_out=quiet:$(OUT)/src $(filter %_service.proto,$(PROTO_V1))
	$(if $(GO_PLUGINS),rm -rf $(OUT)/gen/go/interaction_svc)
	$(if $(GO_PLUGINS),$(BIN)/buf generate --template clients/go/buf.gen.yaml --output $(OUT))

check-generated: $(VENV)/.dev $(GO_PLUGINS) ## check that the committed stubs match protos/
	@rm -rf .build/generated && mkdir -p .build/generated/src
	@$(MAKE) --no-print-directory --silent generate OUT=.build/generated
	@find src $(if $(GO_PLUGINS),gen/go/interaction_svc) -name '*_pb2*.py' -o -name '*_pb2*.pyi' -o -name '*.go' | sort > .build/committed.list
	@cd .build/generated && find src gen -type f 2>/dev/null | sort > ../generated.list
	@diff .build/committed.list .build/generated.list \
	  && (while read -r file; do diff -u "$$file" ".build/generated/$$file" || exit 1; done) < .build/generated.list \
	  || { echo "The stubs do not match protos/: run make generate, and commit them."; exit 1; }
	@command -v go >/dev/null || echo "LEFT OUT: the Go stubs, which need Go"

$(TOOLS)/protoc-gen-go: clients/go/go.mod clients/go/go.sum
	@mkdir -p $(TOOLS)
	cd clients/go && GOBIN="$(CURDIR)/$(TOOLS)" go install tool
	@touch $@

pytest: $(VENV)/.dev $(TOOLS)/grpcurl $(TOOLS)/kustomize $(NODE_MODULES) ## run only the tests; PYTEST='-k paging'
	PATH="$(CURDIR)/$(TOOLS):$$PATH" $(BIN)/python -m pytest -n 4 --dist worksteal $(PYTEST)
	@command -v go >/dev/null || echo "LEFT OUT: the tests with grpcurl, grpc-go and kustomize, which need Go"
	@command -v node >/dev/null || echo "LEFT OUT: the tests with Twilio's Node SDK and grpc-js, which need Node.js"
	@{ command -v protoc && command -v javac && command -v mvn; } >/dev/null \
	  || echo "LEFT OUT: the tests with grpc-java, which need protoc, a JDK and Maven"
	@{ command -v node && command -v chromium; } >/dev/null \
	  || echo "LEFT OUT: the tests with a page in a browser, which need Node.js and Chromium"
	@{ command -v curl && command -v sqlite3; } >/dev/null \
	  || echo "LEFT OUT: the commands of the documentation, which need curl and sqlite3"
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null \
	  || echo "LEFT OUT: the tests with PostgreSQL, which need its server: initdb, pg_ctl and psql"
	@PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null \
	  || echo "LEFT OUT: the tests with PgBouncer, which need its program, pgbouncer"

$(TOOLS)/grpcurl:
	@mkdir -p $(TOOLS)
	@if command -v go >/dev/null; then set -x; \
	  GOBIN="$(CURDIR)/$(TOOLS)" go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION); fi

$(TOOLS)/kustomize:
	@mkdir -p $(TOOLS)
	@if command -v go >/dev/null; then set -x; \
	  GOBIN="$(CURDIR)/$(TOOLS)" go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION); fi

tests/%/node_modules/.stamp: tests/%/package.json tests/%/package-lock.json
	@if command -v npm >/dev/null; then set -x; cd tests/$* && npm ci --loglevel=error --no-audit --no-fund && touch node_modules/.stamp; fi

overload: $(VENV)/.dev ## measure the service at 3 and 6 times its capacity; about a minute
	$(BIN)/python -m bench.overload

format: $(VENV)/.dev ## format the code and the protos
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format -w

clean: ## remove all build output, but not the database
	rm -rf .venv .build .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/node/node_modules tests/browser/node_modules clients/conformance/node/node_modules clients/node/node_modules clients/node/gen

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "interaction-svc needs Python 3.11 or newer; name one with PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# pip installs only packages in requirements/ with a matching hash, and only wheels: to build a
# source package, pip would download a build tool that is not pinned. BINARY= allows source packages,
# for a platform without a wheel.
BINARY      ?= --only-binary :all:
PIP_INSTALL  = pip install --quiet --disable-pip-version-check --require-hashes $(BINARY)
PIP          = $(BIN)/python -m $(PIP_INSTALL) -r requirements/build.txt
# The package itself is installed separately, because a folder has no hash.
PIP_SELF     = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .

$(VENV)/.runtime: pyproject.toml requirements/build.txt requirements/runtime.txt | $(BIN)/python
	$(PIP) -r requirements/runtime.txt
	$(PIP_SELF)
	@touch $@

$(VENV)/.dev: pyproject.toml requirements/build.txt requirements/dev.txt | $(BIN)/python
	$(PIP) -r requirements/dev.txt
	$(PIP_SELF)
	@touch $(VENV)/.runtime $@

include requirements/pins.mk
include clients/clients.mk
include bench/bench.mk
