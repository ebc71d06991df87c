# The example clients in Go and Node.js, the stubs in Java and C#, and the conformance programs, which
# the tests run. The Makefile includes this file.

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

# The conformance programs of tests/system/test_clients.py. A program without its toolchain is not
# built, and `make pytest` reports it as left out.
CONFORMANCE      := .build/conformance
GO_CONFORMANCE   := $(if $(shell command -v go 2>/dev/null),$(CONFORMANCE)/go)
NODE_CONFORMANCE := $(if $(shell command -v npm 2>/dev/null),clients/conformance/node/node_modules/.stamp)
JAVA_CONFORMANCE := $(if $(and $(shell command -v protoc 2>/dev/null),$(shell command -v javac 2>/dev/null),$(shell command -v mvn 2>/dev/null)),$(CONFORMANCE)/java/.stamp)

pytest: $(GO_CONFORMANCE) $(NODE_CONFORMANCE) $(JAVA_CONFORMANCE)

$(CONFORMANCE)/go: clients/go/conformance/main.go clients/go/go.mod gen/go/go.mod $(GO_STUBS)
	cd clients/go && go vet ./conformance && go build -o "$(CURDIR)/$@" ./conformance

clients/conformance/node/node_modules/.stamp: $(addprefix clients/conformance/node/,package.json package-lock.json .npmrc)
	cd clients/conformance/node && npm ci --loglevel=error --no-audit --no-fund && touch node_modules/.stamp

$(CONFORMANCE)/java/.stamp: clients/conformance/java/Conformance.java clients/conformance/health.proto $(CONFORMANCE)/java/jars/.stamp $(PROTO_V1) $(PROTO_GOOGLE) $(VENV)/.dev
	@rm -rf $(@D)/src $(@D)/classes && mkdir -p $(@D)/src $(@D)/classes
	protoc -Iprotos -Ithird_party/googleapis -Iclients/conformance -I"$(PROTOC_STD)" \
	  --java_out=$(@D)/src $(PROTO_V1) $(PROTO_GOOGLE) health.proto
	javac -encoding UTF-8 -nowarn -cp "$(@D)/jars/*" -d $(@D)/classes $< $$(find $(@D)/src -name '*.java')
	@touch $@

MAVEN_DEPENDENCY_PLUGIN := org.apache.maven.plugins:maven-dependency-plugin:3.6.1

# A jar that is not in jars.sha256, or differs from it, is an error.
$(CONFORMANCE)/java/jars/.stamp: clients/conformance/java/pom.xml clients/conformance/java/jars.sha256
	@rm -rf $(@D) && mkdir -p $(@D)
	mvn --batch-mode --quiet --file $< $(MAVEN_DEPENDENCY_PLUGIN):copy-dependencies -DoutputDirectory="$(CURDIR)/$(@D)"
	cd $(@D) && LC_ALL=C sha256sum *.jar | diff "$(CURDIR)/clients/conformance/java/jars.sha256" -
	@touch $@
