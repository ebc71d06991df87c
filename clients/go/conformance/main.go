// Calls a server with grpc-go, and prints for each case whether the answers were right, as a line of
// JSON. tests/system/test_clients.py starts the server, and describes the cases and the options.
//
//	conformance HOST:PORT OPTIONS.json
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/interaction-svc/interaction-svc/gen/go/interaction_svc/v1"
)

const (
	errorDomain = "interaction-svc"
	deadline    = 60 * time.Second // of each call, and of each case that waits
	messageMax  = 4 << 20

	shortDeadline = 300 * time.Millisecond
)

type session struct {
	SessionSid string `json:"session_sid"`
	Sids       []string
}

type options struct {
	Name          string
	Cases         []string
	Authorization string
	AccountSid    string `json:"account_sid"`
	ServiceSid    string `json:"service_sid"`
	Sessions      map[string]session
	Expected      string   // the GetInteractionResponse of the first of the Session `paged`
	NewSids       []string `json:"new_sids"`
	TLS           *struct{ CA, Certificate, Key string }
}

type client struct {
	options
	conn    *grpc.ClientConn
	reading pb.InteractionServiceClient
	ingest  pb.IngestServiceClient
	health  grpc_health_v1.HealthClient
}

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(server, path string) error {
	given, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c client
	if err := json.Unmarshal(given, &c.options); err != nil {
		return err
	}
	transport, err := c.credentials()
	if err != nil {
		return err
	}
	c.conn, err = grpc.NewClient(server, grpc.WithTransportCredentials(transport))
	if err != nil {
		return err
	}
	defer c.conn.Close()
	c.reading = pb.NewInteractionServiceClient(c.conn)
	c.ingest = pb.NewIngestServiceClient(c.conn)
	c.health = grpc_health_v1.NewHealthClient(c.conn)
	cases := map[string]func(context.Context) error{
		"get":               c.get,
		"list_pages":        c.listPages,
		"list_1000":         c.list1000,
		"list_4mib":         c.list4MiB,
		"record":            c.record,
		"record_stream":     c.recordStream,
		"delete":            c.delete,
		"error_details":     c.errorDetails,
		"metadata":          c.metadata,
		"deadline":          c.deadline,
		"cancel":            c.cancel,
		"health_check":      c.healthCheck,
		"health_watch":      c.healthWatch,
		"gzip":              c.gzip,
		"too_large":         c.tooLarge,
		"concurrent_500":    c.concurrent500,
		"sequential_5000":   c.sequential5000,
		"permission_denied": c.permissionDenied,
		"reconnect":         c.reconnect,
	}
	for _, name := range c.Cases {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		err := errors.New("this client has no such case")
		if run, found := cases[name]; found {
			err = run(metadata.AppendToOutgoingContext(ctx, "authorization", c.Authorization))
		}
		cancel()
		report(name, err)
	}
	return nil
}

func report(name string, err error) {
	detail := ""
	if err != nil {
		detail = err.Error()
	}
	line, _ := json.Marshal(map[string]any{"case": name, "ok": err == nil, "detail": detail})
	fmt.Println(string(line))
}

func (c *client) credentials() (credentials.TransportCredentials, error) {
	if c.TLS == nil {
		return insecure.NewCredentials(), nil
	}
	ca, err := os.ReadFile(c.TLS.CA)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(ca)
	if c.TLS.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}

func (c *client) getRequest(session, sid string) *pb.GetInteractionRequest {
	return &pb.GetInteractionRequest{ServiceSid: c.ServiceSid, SessionSid: session, Sid: sid}
}

func (c *client) first() *pb.GetInteractionRequest {
	return c.getRequest(c.Sessions["paged"].SessionSid, c.Sessions["paged"].Sids[0])
}

func (c *client) missing() *pb.GetInteractionRequest {
	return c.getRequest(c.Sessions["paged"].SessionSid, "KI"+strings.Repeat("0", 32))
}

// interaction returns a new Interaction of the Session `written`; each n has another SID.
func (c *client) interaction(n int, data string) *pb.Interaction {
	return &pb.Interaction{
		Sid:        c.NewSids[n],
		AccountSid: c.AccountSid,
		ServiceSid: c.ServiceSid,
		SessionSid: c.Sessions["written"].SessionSid,
		Type:       pb.InteractionType_INTERACTION_TYPE_MESSAGE,
		Data:       &data,
		CreateTime: &timestamppb.Timestamp{Seconds: 1771070400 + int64(n), Nanos: 123456000},
		UpdateTime: &timestamppb.Timestamp{Seconds: 1771070400 + int64(n), Nanos: 123456000},
	}
}

func (c *client) get(ctx context.Context) error {
	encoded, err := base64.StdEncoding.DecodeString(c.Expected)
	if err != nil {
		return err
	}
	expected := &pb.GetInteractionResponse{}
	if err := proto.Unmarshal(encoded, expected); err != nil {
		return err
	}
	response, err := c.reading.GetInteraction(ctx, c.first())
	if err != nil {
		return err
	}
	return expect("the Interaction", proto.Equal(response, expected), true)
}

// list returns the SIDs of a Session, the number of pages, and the size of the first page.
func (c *client) list(
	ctx context.Context, name string, pageSize int32,
) (sids []string, pages, size int, err error) {
	request := &pb.ListInteractionsRequest{
		ServiceSid: c.ServiceSid, SessionSid: c.Sessions[name].SessionSid, PageSize: pageSize,
	}
	for {
		response, err := c.reading.ListInteractions(ctx, request)
		if err != nil {
			return nil, 0, 0, err
		}
		if pages++; pages == 1 {
			size = proto.Size(response)
		}
		for _, interaction := range response.GetInteractions() {
			sids = append(sids, interaction.GetSid())
		}
		if response.GetNextPageToken() == "" {
			return sids, pages, size, nil
		}
		request.PageToken = response.GetNextPageToken()
	}
}

func (c *client) expectList(
	ctx context.Context, name string, pageSize int32, expectedPages, least, most int,
) error {
	sids, pages, size, err := c.list(ctx, name, pageSize)
	if err != nil {
		return err
	}
	return errors.Join(
		expect("SIDs", strings.Join(sids, " "), strings.Join(c.Sessions[name].Sids, " ")),
		expect("pages", pages, expectedPages),
		expect(fmt.Sprintf("size of the first page is right: %d", size), least < size && size < most, true),
	)
}

func (c *client) listPages(ctx context.Context) error {
	return c.expectList(ctx, "paged", 50, 3, 0, messageMax)
}

func (c *client) list1000(ctx context.Context) error {
	return c.expectList(ctx, "thousand", 1000, 1, 300_000, messageMax)
}

func (c *client) list4MiB(ctx context.Context) error {
	return c.expectList(ctx, "large", 1000, 2, 3_900_000, messageMax)
}

func (c *client) record(ctx context.Context) error {
	request := &pb.RecordInteractionRequest{Interaction: c.interaction(0, "{}")}
	created, err := c.ingest.RecordInteraction(ctx, request)
	if err != nil {
		return err
	}
	again, err := c.ingest.RecordInteraction(ctx, request)
	if err != nil {
		return err
	}
	got, err := c.reading.GetInteraction(
		ctx, c.getRequest(c.Sessions["written"].SessionSid, c.NewSids[0]))
	if err != nil {
		return err
	}
	return errors.Join(
		expect("outcome", created.GetOutcome(), pb.RecordOutcome_RECORD_OUTCOME_CREATED),
		expect("outcome", again.GetOutcome(), pb.RecordOutcome_RECORD_OUTCOME_UNCHANGED),
		expect("recorded", proto.Equal(created.GetInteraction(), request.Interaction), true),
		expect("read", proto.Equal(got.GetInteraction(), request.Interaction), true),
	)
}

func (c *client) batch(start, count int) *pb.RecordInteractionsRequest {
	request := &pb.RecordInteractionsRequest{}
	for n := start; n < start+count; n++ {
		request.Interactions = append(request.Interactions, c.interaction(n, strings.Repeat("x", 1000)))
	}
	return request
}

func (c *client) recordStream(ctx context.Context) error {
	stream, err := c.ingest.RecordInteractions(ctx)
	if err != nil {
		return err
	}
	for n := range 5 {
		if err := stream.Send(c.batch(100+50*n, 50)); err != nil {
			return err
		}
	}
	response, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	return errors.Join(expect("created", response.GetCreated(), 250), expect("failed", response.GetFailed(), 0))
}

func (c *client) delete(ctx context.Context) error {
	interaction := c.interaction(1, "{}")
	_, err := c.ingest.RecordInteraction(ctx, &pb.RecordInteractionRequest{Interaction: interaction})
	if err != nil {
		return err
	}
	_, err = c.reading.DeleteInteraction(ctx, &pb.DeleteInteractionRequest{
		ServiceSid: c.ServiceSid, SessionSid: interaction.SessionSid, Sid: interaction.Sid,
	})
	if err != nil {
		return err
	}
	_, err = c.reading.GetInteraction(ctx, c.getRequest(interaction.SessionSid, interaction.Sid))
	return expect("code", status.Code(err), codes.NotFound)
}

func (c *client) errorDetails(ctx context.Context) error {
	_, err := c.reading.GetInteraction(ctx, c.missing())
	return errors.Join(
		expect("code", status.Code(err), codes.NotFound),
		expect("reason", reasonOf(err), "ERROR_REASON_INTERACTION_NOT_FOUND"),
	)
}

func (c *client) metadata(ctx context.Context) error {
	var trailer metadata.MD
	sent := c.Name + "-metadata"
	ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", sent)
	if _, err := c.reading.GetInteraction(ctx, c.first(), grpc.Trailer(&trailer)); err != nil {
		return err
	}
	failed := expect("x-request-id", strings.Join(trailer.Get("x-request-id"), " "), sent)
	for _, values := range []metadata.MD{{}, metadata.Pairs("authorization", c.Authorization+"x")} {
		_, err := c.reading.GetInteraction(
			metadata.NewOutgoingContext(ctx, values), c.first(), grpc.Trailer(&trailer))
		failed = errors.Join(
			failed,
			expect("code", status.Code(err), codes.Unauthenticated),
			expect("reason", reasonOf(err), "ERROR_REASON_UNAUTHENTICATED"),
			expect("request IDs", len(trailer.Get("x-request-id")), 1),
		)
	}
	return failed
}

func (c *client) deadline(ctx context.Context) error {
	short, cancel := context.WithTimeout(
		metadata.AppendToOutgoingContext(ctx, "x-request-id", c.Name+"-deadline"), shortDeadline)
	defer cancel()
	stream, err := c.ingest.RecordInteractions(short)
	if err == nil {
		err = stream.RecvMsg(&pb.RecordInteractionsResponse{})
	}
	return errors.Join(expect("code", status.Code(err), codes.DeadlineExceeded), c.get(ctx))
}

// cancel cancels a stream in the middle: after its first batch was recorded.
func (c *client) cancel(ctx context.Context) error {
	canceled, cancel := context.WithCancel(
		metadata.AppendToOutgoingContext(ctx, "x-request-id", c.Name+"-cancel"))
	defer cancel()
	stream, err := c.ingest.RecordInteractions(canceled)
	if err != nil {
		return err
	}
	if err := stream.Send(c.batch(400, 10)); err != nil {
		return err
	}
	for {
		_, err := c.reading.GetInteraction(
			ctx, c.getRequest(c.Sessions["written"].SessionSid, c.NewSids[400]))
		if err == nil {
			break
		}
		if status.Code(err) != codes.NotFound {
			return err
		}
	}
	cancel()
	err = stream.RecvMsg(&pb.RecordInteractionsResponse{})
	return errors.Join(expect("code", status.Code(err), codes.Canceled), c.get(ctx))
}

func (c *client) healthCheck(ctx context.Context) error {
	for _, name := range []string{"", "interaction_svc.v1.InteractionService"} {
		response, err := c.health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: name})
		if err != nil {
			return err
		}
		if err := expect("health", response.GetStatus(), grpc_health_v1.HealthCheckResponse_SERVING); err != nil {
			return err
		}
	}
	_, err := c.health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "unknown"})
	return expect("code", status.Code(err), codes.NotFound)
}

func (c *client) healthWatch(ctx context.Context) error {
	canceled, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.health.Watch(canceled, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	response, err := stream.Recv()
	if err != nil {
		return err
	}
	cancel()
	_, err = stream.Recv()
	return errors.Join(
		expect("health", response.GetStatus(), grpc_health_v1.HealthCheckResponse_SERVING),
		expect("code", status.Code(err), codes.Canceled),
	)
}

func (c *client) gzip(ctx context.Context) error {
	request := &pb.RecordInteractionRequest{Interaction: c.interaction(2, strings.Repeat("gzip", 10_000))}
	response, err := c.ingest.RecordInteraction(ctx, request, grpc.UseCompressor(gzip.Name))
	if err != nil {
		return err
	}
	return expect("recorded", proto.Equal(response.GetInteraction(), request.Interaction), true)
}

func (c *client) tooLarge(ctx context.Context) error {
	request := &pb.RecordInteractionRequest{Interaction: c.interaction(3, strings.Repeat("x", 5<<20))}
	_, err := c.ingest.RecordInteraction(ctx, request)
	return errors.Join(expect("code", status.Code(err), codes.ResourceExhausted), c.get(ctx))
}

func (c *client) concurrent500(ctx context.Context) error {
	if err := c.get(ctx); err != nil {
		return err
	}
	failed := make([]error, 500)
	var all sync.WaitGroup
	for n := range failed {
		all.Go(func() { failed[n] = c.get(ctx) })
	}
	all.Wait()
	return errors.Join(failed...)
}

func (c *client) sequential5000(ctx context.Context) error {
	for range 5000 {
		if err := c.get(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) permissionDenied(ctx context.Context) error {
	_, err := c.reading.GetInteraction(ctx, c.first())
	return expect("code", status.Code(err), codes.PermissionDenied)
}

// reconnect calls before and after a restart of the server, which follows the line `restart`.
func (c *client) reconnect(ctx context.Context) error {
	if err := c.get(ctx); err != nil {
		return err
	}
	fmt.Println("restart")
	if line, err := bufio.NewReader(os.Stdin).ReadBytes('\n'); !bytes.Equal(line, []byte("restarted\n")) {
		return fmt.Errorf("the restart failed: %q %w", line, err)
	}
	_, err := c.reading.GetInteraction(ctx, c.first(), grpc.WaitForReady(true))
	return err
}

func expect[T comparable](what string, seen, expected T) error {
	if seen == expected {
		return nil
	}
	return fmt.Errorf("%s: expected %v, not %v", what, expected, seen)
}

func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return info.GetReason()
		}
	}
	return ""
}
