# The example clients in Go and Node.js; included at the end of the Makefile.

# Without its toolchain a client isn't built, and check.py says that it was left out.
GO_CLIENT   := $(if $(shell command -v go 2>/dev/null),$(TOOLS)/list-interactions)
GO_CHECK    := $(if $(GO_CLIENT),check-generated-go)
NODE_CLIENT := $(if $(shell command -v node 2>/dev/null),clients/node/gen/.stamp)

.PHONY: test-clients generate-go check-generated-go

test-clients: $(VENV)/.dev $(GO_CHECK) $(GO_CLIENT) $(NODE_CLIENT) ## the example clients in Go and Node.js, against a real server
	$(BIN)/python clients/check.py

GO_STUBS := $(wildcard gen/go/interaction_svc/v1/*.go)

$(TOOLS)/list-interactions: clients/go/main.go clients/go/go.mod gen/go/go.mod $(GO_STUBS)
	cd clients/go && go vet . && go build -o "$(CURDIR)/$@" .

# The plugins are tools of go.mod, which pins them.
GO_PLUGINS := $(TOOLS)/protoc-gen-go

$(GO_PLUGINS): clients/go/go.mod clients/go/go.sum
	@mkdir -p $(TOOLS)
	cd clients/go && GOBIN="$(CURDIR)/$(TOOLS)" go install tool
	@touch $@

generate-go: $(VENV)/.dev $(GO_PLUGINS) ## the Go stubs of gen/go from protos/
	rm -rf gen/go/interaction_svc
	$(BIN)/buf generate --template clients/go/buf.gen.yaml

check-generated-go: $(VENV)/.dev $(GO_PLUGINS) ## whether the committed Go stubs are those of protos/
	@rm -rf .build/generated-go
	$(BIN)/buf generate --template clients/go/buf.gen.yaml --output .build/generated-go
	@diff -ru .build/generated-go/gen/go/interaction_svc gen/go/interaction_svc \
	  || { echo "The Go stubs are not those of protos/: run make generate-go, and commit them."; exit 1; }

# Where Python's googleapis-common-protos keeps google/rpc/error_details.proto.
GOOGLE_PROTOS = $(shell $(BIN)/python -c 'import google.rpc; print(google.rpc.__path__[0].removesuffix("/google/rpc"))')

clients/node/gen/.stamp: clients/node/node_modules/.stamp clients/node/buf.gen.yaml $(PROTO_V1) $(VENV)/.dev
	@rm -rf clients/node/gen
	$(BIN)/buf generate --template clients/node/buf.gen.yaml
	$(BIN)/buf generate --template clients/node/buf.gen.yaml \
	  "$(GOOGLE_PROTOS)" --path "$(GOOGLE_PROTOS)/google/rpc/error_details.proto"
	@touch $@

clients/node/node_modules/.stamp: clients/node/package.json clients/node/package-lock.json clients/node/.npmrc
	cd clients/node && npm ci --loglevel=error --no-audit --no-fund && touch node_modules/.stamp
