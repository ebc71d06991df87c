# The example clients in Go and Node.js; included at the end of the Makefile.

# Without its toolchain a client isn't built, and check.py says that it was left out.
GO_CLIENT   := $(if $(shell command -v go 2>/dev/null),$(TOOLS)/list-interactions)
NODE_CLIENT := $(if $(shell command -v node 2>/dev/null),clients/node/gen/.stamp)

.PHONY: test-clients

test-clients: $(VENV)/.dev $(GO_CLIENT) $(NODE_CLIENT) ## the example clients in Go and Node.js, against a real server
	$(BIN)/python clients/check.py

$(TOOLS)/list-interactions: clients/go/main.go clients/go/gen/.stamp
	cd clients/go && go vet . && go build -o "$(CURDIR)/$@" .

# The plugins are tools of go.mod, which pins them.
clients/go/gen/.stamp: clients/go/go.mod clients/go/go.sum clients/go/buf.gen.yaml $(PROTO_V1) $(VENV)/.dev
	@mkdir -p $(TOOLS)
	cd clients/go && GOBIN="$(CURDIR)/$(TOOLS)" go install tool
	$(BIN)/buf generate --template clients/go/buf.gen.yaml
	@touch $@

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
