"""Code blocks that the tests do not run, each with the reason."""

_DOCKER = "needs Docker"
_CLUSTER = "needs a Kubernetes cluster; tests/deploy looks at the manifests"
_OPERATORS = "needs an operator's PostgreSQL; test_postgres_serving.py has such commands"
_CLIENTS = "`make test-clients` runs these commands"

LEFT_OUT = {
    ("README.md", "make test"): "it is what runs this",
    ("clients/README.md", "(cd clients/go && go run . --server 127.0.0.1:50051 \\"): _CLIENTS,
    ("clients/README.md", '(cd clients/go && GOBIN="$PWD/../../.build/bin" go install tool)'): (
        _CLIENTS
    ),
    ("clients/README.md", "(cd clients/node && npm ci)"): _CLIENTS,
    (
        "docs/dependencies.md",
        "make pins                      # after a change of the dependencies in pyproject.toml",
    ): "needs a package index, and rewrites requirements/",
    ("docs/deployment.md", "docker build -f deploy/Dockerfile -t interaction-svc:0.1.0 ."): _DOCKER,
    ("docs/deployment.md", "mkdir -m 700 deploy/secrets && cd deploy/secrets"): (
        "tests/deploy/test_starting.py runs it"
    ),
    (
        "docs/access.md",
        "interaction-svc get --server interactions.example:50051 --server-tls --server-ca ca.pem"
        " --client-certificate worker.pem --client-key worker-key.pem KS… KC… KI…",
    ): "needs a server at interactions.example and its certificates; test_tls.py has such calls",
    ("docs/connect.md", 'import { createClient } from "@connectrpc/connect";'): (
        "tests/browser/test_browser.py opens such a page"
    ),
    (
        "docs/connect.md",
        "INTERACTION_SVC_STORE=sqlite:///interactions.db hypercorn"
        " 'interaction_svc.asgi:create_app()'",
    ): "tests/system/test_other_asgi_server.py serves so",
    ("docs/postgresql.md", "pip install 'interaction-svc[postgres]'"): _OPERATORS,
    (
        "docs/postgresql.md",
        "interaction-svc serve --store postgresql://interaction_svc@db1/interactions"
        " --replica-store postgresql://interaction_svc@db2/interactions",
    ): _OPERATORS,
    (
        "docs/scaling.md",
        "psql interactions -c 'CREATE EXTENSION citus'"
        " -c 'ALTER DATABASE interactions SET citus.shard_count = 1024'",
    ): "needs Citus; tests/store/test_postgres_distributed.py distributes on a stand-in",
    (
        "docs/deployment.md",
        "docker compose -f deploy/compose.yaml run --build --rm migrate keys create --role admin",
    ): _DOCKER,
    (
        "docs/deployment.md",
        "kubectl create secret generic interaction-svc-store --from-literal=url='postgresql://"
        "interaction_svc@postgres.example:5432/interactions?sslmode=require'"
        " --from-file=password=postgres-password",
    ): _CLUSTER,
    ("docs/deployment.md", "kubectl apply -k deploy/kubernetes/migrate"): _CLUSTER,
    ("docs/performance.md", "cp -r src /tmp/without-uvloop"): "it measures for minutes",
    ("docs/deployment.md", "channel = grpc.aio.secure_channel("): (
        "tests/deploy/test_balancing.py balances so"
    ),
}
"""Reasons by page and first line of the block."""
