// Reads a Session over gRPC, on stubs generated from protos/. It shows how to follow the pages of
// a list, that a leg can be missing, and how to tell errors apart by their google.rpc.ErrorInfo.
//
//	go run . --server 127.0.0.1:50051 --service KS... --session KC...
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/interaction-svc/interaction-svc/gen/go/interaction_svc/v1"
)

const (
	errorDomain = "interaction-svc"
	deadline    = 10 * time.Second // of each call
)

func main() {
	request := &pb.ListInteractionsRequest{PageSize: 20}
	server := flag.String("server", "127.0.0.1:50051", "`HOST:PORT` of the service")
	flag.StringVar(&request.ServiceSid, "service", "", "the Service, `KS...`")
	flag.StringVar(&request.SessionSid, "session", "", "the Session, `KC...`")
	flag.Func("page-size", "ask for `N` Interactions at a time (default 20)",
		func(text string) error {
			size, err := strconv.ParseInt(text, 10, 32)
			request.PageSize = int32(size)
			return err
		})
	flag.Parse()
	if err := run(*server, request); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(server string, request *pb.ListInteractionsRequest) error {
	// Without TLS: only for a loopback address, or a network that encrypts its traffic.
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := pb.NewInteractionServiceClient(conn)

	interactions, pages, err := printSession(client, request)
	if err != nil {
		return err
	}
	if err := getMissing(client, request.GetServiceSid(), request.GetSessionSid()); err != nil {
		return err
	}
	fmt.Printf("%d Interactions on %d pages\n", interactions, pages)
	return nil
}

// printSession prints the Session's Interactions, oldest first, and counts them and their pages.
func printSession(
	client pb.InteractionServiceClient, request *pb.ListInteractionsRequest,
) (interactions, pages int, err error) {
	for {
		response, err := list(client, request)
		if err != nil {
			return 0, 0, err
		}
		pages++
		for _, interaction := range response.GetInteractions() {
			interactions++
			fmt.Println(line(interaction))
		}
		// Only a missing token means the end of the list; a short page does not.
		if response.GetNextPageToken() == "" {
			return interactions, pages, nil
		}
		request.PageToken = response.GetNextPageToken()
	}
}

func list(
	client pb.InteractionServiceClient, request *pb.ListInteractionsRequest,
) (*pb.ListInteractionsResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return client.ListInteractions(ctx, request)
}

// getMissing gets an Interaction that doesn't exist. It returns an error unless it is not found.
func getMissing(client pb.InteractionServiceClient, service, session string) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	_, err := client.GetInteraction(ctx, &pb.GetInteractionRequest{
		ServiceSid: service, SessionSid: session, Sid: "KI" + strings.Repeat("0", 32),
	})
	if err == nil {
		return errors.New("found an Interaction that can't be there")
	}
	reason := reasonOf(err)
	if status.Code(err) != codes.NotFound ||
		reason != pb.ErrorReason_ERROR_REASON_INTERACTION_NOT_FOUND.String() {
		return fmt.Errorf("expected not found, got %w (reason %q)", err, reason)
	}
	fmt.Println("not found, as expected:", reason)
	return nil
}

// reasonOf returns the reason in this service's ErrorInfo, which is the name of an ErrorReason. It is
// empty if the error has no ErrorInfo, for example if the service can't be reached.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return info.GetReason()
		}
	}
	return ""
}

// line returns an Interaction as one line, without its data, which is personal.
func line(interaction *pb.Interaction) string {
	return fmt.Sprintf("%s %s %s %s -> %s",
		interaction.GetSid(),
		strings.TrimPrefix(interaction.GetType().String(), "INTERACTION_TYPE_"),
		interaction.GetCreateTime().AsTime().Format("2006-01-02T15:04:05.000000Z07:00"),
		leg(interaction.GetInbound()),
		leg(interaction.GetOutbound()))
}

// leg returns a leg's participant and status. A message that was sent through the API has no inbound
// leg. The participant or the status of a leg can be unknown.
func leg(leg *pb.Leg) string {
	if leg == nil {
		return "-"
	}
	participant := leg.GetParticipantSid()
	if participant == "" {
		participant = "?"
	}
	return participant + "/" + strings.TrimPrefix(leg.GetResourceStatus().String(), "RESOURCE_STATUS_")
}
