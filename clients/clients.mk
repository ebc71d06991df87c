# The example clients in Go and Node.js, and the stubs in Java and C#; included by the Makefile.

# Without its toolchain a client isn't built, and check.py says that it was left out.
GO_CLIENT   := $(if $(shell command -v go 2>/dev/null),$(TOOLS)/list-interactions)
JAVA_STUBS  := $(if $(shell command -v mvn 2>/dev/null),clients/java/target/.stamp)
NODE_CLIENT := $(if $(shell command -v node 2>/dev/null),clients/node/gen/.stamp)

.PHONY: test-clients

test-clients: $(VENV)/.dev $(GO_CLIENT) $(NODE_CLIENT) $(JAVA_STUBS) ## the example clients against a real server, and stubs in other languages
	$(BIN)/python clients/check.py
	@command -v mvn >/dev/null || echo "LEFT OUT: the stubs in Java and C#, which need Maven and a JDK"

GO_STUBS := $(wildcard gen/go/interaction_svc/v1/*.go)

$(TOOLS)/list-interactions: clients/go/main.go clients/go/go.mod gen/go/go.mod $(GO_STUBS)
	cd clients/go && go vet . && go build -o "$(CURDIR)/$@" .

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
