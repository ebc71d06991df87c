// The rival in Go: the API's reads on grpc-go, database/sql and SQLite, in the usual style of Go.
// It builds messages from rows, field by field. It has no credentials, metrics, logs or limits.
//
//	rival-go --db FILE
package main

import (
	"database/sql"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	_ "github.com/mattn/go-sqlite3"
	"google.golang.org/grpc"

	pb "github.com/interaction-svc/interaction-svc/gen/go/interaction_svc/v1"
)

func main() {
	file := flag.String("db", "", "the rivals' database, a `FILE`")
	flag.Parse()
	if err := run(*file); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(file string) error {
	// The page cache, in KiB, is as large as the service's.
	db, err := sql.Open("sqlite3",
		"file:"+file+"?mode=rw&_journal_mode=WAL&_busy_timeout=5000&_cache_size=-16384")
	if err != nil {
		return err
	}
	defer db.Close()
	// By default only two idle connections are kept, and a busy server would reopen connections.
	db.SetMaxIdleConns(openConnections)
	db.SetMaxOpenConns(openConnections)
	service, err := newInteractions(db)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	pb.RegisterInteractionServiceServer(server, service)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		server.Stop()
	}()
	fmt.Println("gRPC on", listener.Addr())
	return server.Serve(listener)
}
