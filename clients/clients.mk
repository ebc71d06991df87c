# The example clients in Go and Node.js, and the stubs in Java and C#; included by the Makefile.

# Without its toolchain a client isn't built, and check.py says that it was left out.
GO_CLIENT   := $(if $(shell command -v go 2>/dev/null),$(TOOLS)/list-interactions)
GO_CHECK    := $(if $(GO_CLIENT),check-generated-go)
JAVA_STUBS  := $(if $(shell command -v mvn 2>/dev/null),clients/java/target/.stamp)
NODE_CLIENT := $(if $(shell command -v node 2>/dev/null),clients/node/gen/.stamp)

.PHONY: test-clients generate-go check-generated-go

test-clients: $(VENV)/.dev $(GO_CHECK) $(GO_CLIENT) $(NODE_CLIENT) $(JAVA_STUBS) ## the example clients against a real server, and stubs in other languages
	$(BIN)/python clients/check.py
	@command -v mvn >/dev/null || echo "LEFT OUT: the stubs in Java and C#, which need Maven and a JDK"

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

clients/node/gen/.stamp: clients/node/node_modules/.stamp clients/node/buf.gen.yaml $(PROTO_V1) $(VENV)/.dev
	@rm -rf clients/node/gen
	$(BIN)/buf generate --template clients/node/buf.gen.yaml
	@touch $@

clients/node/node_modules/.stamp: clients/node/package.json clients/node/package-lock.json clients/node/.npmrc
	cd clients/node && npm ci --loglevel=error --no-audit --no-fund && touch node_modules/.stamp

# Java and C# come with protoc, which is a Maven artifact. Java's messages are compiled; for C# there
# is no compiler here.
PLATFORM    := $(subst Darwin,osx,$(subst Linux,linux,$(shell uname -s)))-$(subst aarch64,aarch_64,$(subst arm64,aarch64,$(shell uname -m)))
PROTOC_EXE  := $(TOOLS)/protoc-$(PLATFORM).exe
PROTOC_STD   = $(shell $(BIN)/python -c 'import grpc_tools; print(grpc_tools.__path__[0])')/_proto

$(PROTOC_EXE): clients/java/pom.xml
	@mkdir -p $(TOOLS)
	mvn -q -B -Dstyle.color=never -f clients/java/pom.xml dependency:copy -Dplatform=$(PLATFORM) -Doutput="$(CURDIR)/$(TOOLS)" -Dmdep.stripVersion=true
	@chmod +x $@ && touch $@

clients/java/target/.stamp: $(PROTOC_EXE) $(PROTO_V1) $(VENV)/.dev
	@rm -rf clients/java/gen clients/java/target .build/csharp && mkdir -p clients/java/gen .build/csharp
	$(PROTOC_EXE) -Iprotos -Ithird_party/googleapis -I"$(PROTOC_STD)" \
	  --java_out=clients/java/gen --csharp_out=.build/csharp $(PROTO_V1)
	mvn -q -B -Dstyle.color=never -f clients/java/pom.xml compile
	@touch $@
