package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/interaction-svc/interaction-svc/gen/go/interaction_svc/v1"
)

const (
	openConnections = 8 // to the database
	defaultPageSize = 50
	maxPageSize     = 1000

	columns = `SELECT sid, account_sid, service_sid, session_sid, created_us, updated_us, type, data,
		inbound_participant_sid, inbound_resource_sid, inbound_resource_status,
		inbound_resource_type, inbound_resource_url,
		outbound_participant_sid, outbound_resource_sid, outbound_resource_status,
		outbound_resource_type, outbound_resource_url
		FROM interactions WHERE session_sid = ? AND service_sid = ?`
	inOrder = ` ORDER BY created_us, sid LIMIT ?`
)

// interactions serves Get and List; the other methods are Unimplemented.
type interactions struct {
	pb.UnimplementedInteractionServiceServer
	get, first, after *sql.Stmt
}

func newInteractions(db *sql.DB) (*interactions, error) {
	service := &interactions{}
	for statement, text := range map[**sql.Stmt]string{
		&service.get:   columns + ` AND sid = ?`,
		&service.first: columns + inOrder,
		&service.after: columns + ` AND (created_us, sid) > (?, ?)` + inOrder,
	} {
		prepared, err := db.Prepare(text)
		if err != nil {
			return nil, err
		}
		*statement = prepared
	}
	return service, nil
}

func (s *interactions) GetInteraction(
	ctx context.Context, request *pb.GetInteractionRequest,
) (*pb.GetInteractionResponse, error) {
	row := s.get.QueryRowContext(ctx, request.GetSessionSid(), request.GetServiceSid(), request.GetSid())
	found, _, err := scan(row)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, status.Error(codes.NotFound, "there is no such Interaction")
	}
	if err != nil {
		return nil, err
	}
	return &pb.GetInteractionResponse{Interaction: found}, nil
}

func (s *interactions) ListInteractions(
	ctx context.Context, request *pb.ListInteractionsRequest,
) (*pb.ListInteractionsResponse, error) {
	size := int(request.GetPageSize())
	if size < 0 {
		return nil, status.Error(codes.InvalidArgument, "page_size is negative")
	}
	if size == 0 {
		size = defaultPageSize
	}
	size = min(size, maxPageSize)
	// One more row than the page has, to know whether there is a next page.
	statement, arguments := s.first, []any{request.GetSessionSid(), request.GetServiceSid(), size + 1}
	if token := request.GetPageToken(); token != "" {
		createdUs, sid, err := readToken(token)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, "page_token is damaged")
		}
		statement = s.after
		arguments = []any{request.GetSessionSid(), request.GetServiceSid(), createdUs, sid, size + 1}
	}
	rows, err := statement.QueryContext(ctx, arguments...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	response := &pb.ListInteractionsResponse{Interactions: make([]*pb.Interaction, 0, size)}
	var lastUs int64
	for rows.Next() {
		if len(response.Interactions) == size {
			last := response.Interactions[size-1]
			response.NextPageToken = makeToken(lastUs, last.GetSid())
			break
		}
		interaction, createdUs, err := scan(rows)
		if err != nil {
			return nil, err
		}
		response.Interactions = append(response.Interactions, interaction)
		lastUs = createdUs
	}
	return response, rows.Err()
}

// scan returns the Interaction of a row, and its creation time in microseconds.
func scan(row interface{ Scan(...any) error }) (*pb.Interaction, int64, error) {
	made := &pb.Interaction{}
	var createdUs, updatedUs int64
	var data sql.NullString
	var inbound, outbound leg
	err := row.Scan(
		&made.Sid, &made.AccountSid, &made.ServiceSid, &made.SessionSid,
		&createdUs, &updatedUs, &made.Type, &data,
		&inbound.participantSid, &inbound.resourceSid, &inbound.resourceStatus,
		&inbound.resourceType, &inbound.resourceURL,
		&outbound.participantSid, &outbound.resourceSid, &outbound.resourceStatus,
		&outbound.resourceType, &outbound.resourceURL,
	)
	if err != nil {
		return nil, 0, err
	}
	if data.Valid {
		made.Data = &data.String
	}
	made.Inbound, made.Outbound = inbound.message(), outbound.message()
	made.CreateTime = timestamppb.New(time.UnixMicro(createdUs))
	made.UpdateTime = timestamppb.New(time.UnixMicro(updatedUs))
	return made, createdUs, nil
}

// leg has the columns of a leg; all are null if the leg is unset.
type leg struct {
	participantSid, resourceSid sql.NullString
	resourceStatus              sql.NullInt32
	resourceType, resourceURL   sql.NullString
}

func (l *leg) message() *pb.Leg {
	if !l.participantSid.Valid && !l.resourceSid.Valid && !l.resourceStatus.Valid &&
		!l.resourceType.Valid && !l.resourceURL.Valid {
		return nil
	}
	return &pb.Leg{
		ParticipantSid: l.participantSid.String,
		ResourceSid:    l.resourceSid.String,
		ResourceStatus: pb.ResourceStatus(l.resourceStatus.Int32),
		ResourceType:   l.resourceType.String,
		ResourceUrl:    l.resourceURL.String,
	}
}

// makeToken returns a token of the last row of a page.
func makeToken(createdUs int64, sid string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(createdUs, 10) + " " + sid))
}

func readToken(token string) (createdUs int64, sid string, err error) {
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, "", err
	}
	created, sid, _ := strings.Cut(string(text), " ")
	createdUs, err = strconv.ParseInt(created, 10, 64)
	return createdUs, sid, err
}
