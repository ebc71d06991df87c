# The example clients in Go and Node.js, and the stubs in Java and C#. The Makefile includes this file.

# A client without its toolchain is not built, and check.py reports it as left out.
GO_CLIENT   := $(if $(shell command -v go 2>/dev/null),$(TOOLS)/list-interactions)
JAVA_STUBS  := $(if $(and $(shell command -v protoc 2>/dev/null),$(shell command -v javac 2>/dev/null)),.build/java/.stamp)
PROTO_GOOGLE := $(wildcard third_party/googleapis/google/*/*.proto)
NODE_CLIENT := $(if $(shell command -v node 2>/dev/null),clients/node/gen/.stamp)

.PHONY: test-clients

test-clients: $(VENV)/.dev $(GO_CLIENT) $(NODE_CLIENT) $(JAVA_STUBS) ## test the example clients against a server, and compile the stubs of other languages
	$(BIN)/python clients/check.py
	@{ command -v protoc && command -v javac; } >/dev/null || echo "LEFT OUT: the stubs in Java and C#, which need protoc, libprotobuf-java and a JDK"

GO_STUBS := $(wildcard gen/go/interaction_svc/v1/*.go)

$(TOOLS)/list-interactions: clients/go/main.go clients/go/go.mod gen/go/go.mod $(GO_STUBS)
	cd clients/go && go vet . && go build -o "$(CURDIR)/$@" .

clients/node/gen/.stamp: clients/node/node_modules/.stamp clients/node/buf.gen.yaml $(PROTO_V1) $(VENV)/.dev
	@rm -rf clients/node/gen
	$(BIN)/buf generate --template clients/node/buf.gen.yaml
	@touch $@

clients/node/node_modules/.stamp: clients/node/package.json clients/node/package-lock.json clients/node/.npmrc
	cd clients/node && npm ci --loglevel=error --no-audit --no-fund && touch node_modules/.stamp

# The system's protoc generates Java and C#. The Java stubs are compiled against the system's
# protobuf.jar. The C# stubs are generated, but not compiled.
PROTOBUF_JAR ?= /usr/share/java/protobuf.jar
PROTOC_STD    = $(shell $(BIN)/python -c 'import grpc_tools; print(grpc_tools.__path__[0])')/_proto

.build/java/.stamp: $(PROTO_V1) $(PROTO_GOOGLE) $(VENV)/.dev
	@rm -rf .build/java .build/csharp && mkdir -p .build/java/classes .build/csharp
	protoc -Iprotos -Ithird_party/googleapis -I"$(PROTOC_STD)" \
	  --java_out=.build/java --csharp_out=.build/csharp $(PROTO_V1) $(PROTO_GOOGLE)
	javac -encoding UTF-8 -nowarn -cp $(PROTOBUF_JAR) -d .build/java/classes $$(find .build/java -name '*.java')
	@touch $@
