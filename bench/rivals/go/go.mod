// The plain Go server of the benchmark, on the stubs of gen/go.
module github.com/interaction-svc/interaction-svc/bench/rivals/go

go 1.26.0

require (
	github.com/interaction-svc/interaction-svc/gen/go v0.0.0
	github.com/mattn/go-sqlite3 v1.14.53
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
)

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261104224025-d1e00e9f33ab // indirect
)

replace github.com/interaction-svc/interaction-svc/gen/go => ../../../gen/go
