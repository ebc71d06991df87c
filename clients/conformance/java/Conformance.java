// Calls a server with grpc-java, and prints for each case whether the answers were right, as a line of
// JSON. tests/system/test_clients.py starts the server, and describes the cases and the options.
//
//   java ... Conformance HOST:PORT OPTIONS.json

import com.google.common.util.concurrent.ListenableFuture;
import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.protobuf.Any;
import com.google.protobuf.Message;
import com.google.protobuf.Timestamp;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import interactionsvc.v1.*;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptors;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.netty.shaded.io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import io.grpc.netty.shaded.io.netty.handler.ssl.SslContextBuilder;
import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

public final class Conformance {
  private static final long DEADLINE_SECONDS = 60; // of each call, and of each case that waits
  private static final long SHORT_DEADLINE_MS = 300;
  private static final int MESSAGE_MAX = 4 << 20;

  private static final String READING = "interaction_svc.v1.InteractionService/";
  private static final String INGEST = "interaction_svc.v1.IngestService/";
  private static final MethodDescriptor<GetInteractionRequest, GetInteractionResponse> GET =
      method(READING + "GetInteraction", MethodType.UNARY,
          GetInteractionRequest.getDefaultInstance(), GetInteractionResponse.getDefaultInstance());
  private static final MethodDescriptor<ListInteractionsRequest, ListInteractionsResponse> LIST =
      method(READING + "ListInteractions", MethodType.UNARY,
          ListInteractionsRequest.getDefaultInstance(), ListInteractionsResponse.getDefaultInstance());
  private static final MethodDescriptor<DeleteInteractionRequest, DeleteInteractionResponse> DELETE =
      method(READING + "DeleteInteraction", MethodType.UNARY,
          DeleteInteractionRequest.getDefaultInstance(), DeleteInteractionResponse.getDefaultInstance());
  private static final MethodDescriptor<RecordInteractionRequest, RecordInteractionResponse> RECORD =
      method(INGEST + "RecordInteraction", MethodType.UNARY,
          RecordInteractionRequest.getDefaultInstance(), RecordInteractionResponse.getDefaultInstance());
  private static final MethodDescriptor<RecordInteractionsRequest, RecordInteractionsResponse>
      RECORD_STREAM = method(INGEST + "RecordInteractions", MethodType.CLIENT_STREAMING,
          RecordInteractionsRequest.getDefaultInstance(),
          RecordInteractionsResponse.getDefaultInstance());
  private static final MethodDescriptor<HealthCheckRequest, HealthCheckResponse> CHECK =
      method("grpc.health.v1.Health/Check", MethodType.UNARY,
          HealthCheckRequest.getDefaultInstance(), HealthCheckResponse.getDefaultInstance());
  private static final MethodDescriptor<HealthCheckRequest, HealthCheckResponse> WATCH =
      method("grpc.health.v1.Health/Watch", MethodType.SERVER_STREAMING,
          HealthCheckRequest.getDefaultInstance(), HealthCheckResponse.getDefaultInstance());

  private static final Metadata.Key<String> AUTHORIZATION = key("authorization");
  private static final Metadata.Key<String> REQUEST_ID = key("x-request-id");
  private static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private final Options options;
  private final ManagedChannel plain;
  private final Channel channel; // with the key

  private Conformance(Options options, ManagedChannel plain) {
    this.options = options;
    this.plain = plain;
    this.channel = withHeader(plain, AUTHORIZATION, options.authorization);
  }

  private interface Case {
    void run() throws Exception;
  }

  private static final class Session {
    String session_sid;
    List<String> sids;
  }

  private static final class Tls {
    String ca;
    String certificate;
    String key;
  }

  private static final class Options {
    String name;
    List<String> cases;
    String authorization;
    String account_sid;
    String service_sid;
    Map<String, Session> sessions;
    String expected; // the GetInteractionResponse of the first of the Session `paged`
    List<String> new_sids;
    Tls tls;
  }

  public static void main(String[] arguments) throws Exception {
    Options options = new Gson().fromJson(Files.readString(Path.of(arguments[1])), Options.class);
    NettyChannelBuilder builder = NettyChannelBuilder.forTarget(arguments[0]);
    if (options.tls == null) {
      builder.usePlaintext();
    } else {
      SslContextBuilder tls = GrpcSslContexts.forClient().trustManager(new File(options.tls.ca));
      if (!options.tls.certificate.isEmpty()) {
        tls.keyManager(new File(options.tls.certificate), new File(options.tls.key));
      }
      builder.sslContext(tls.build());
    }
    ManagedChannel channel = builder.build();
    try {
      new Conformance(options, channel).runAll();
    } finally {
      channel.shutdownNow().awaitTermination(DEADLINE_SECONDS, TimeUnit.SECONDS);
    }
  }

  private void runAll() {
    Map<String, Case> cases = new LinkedHashMap<>();
    cases.put("get", this::get);
    cases.put("list_pages", () -> expectList("paged", 50, 3, 0));
    cases.put("list_1000", () -> expectList("thousand", 1000, 1, 300_000));
    cases.put("list_4mib", () -> expectList("large", 1000, 2, 3_900_000));
    cases.put("record", this::record);
    cases.put("record_stream", this::recordStream);
    cases.put("delete", this::delete);
    cases.put("error_details", this::errorDetails);
    cases.put("metadata", this::metadata);
    cases.put("deadline", this::deadline);
    cases.put("cancel", this::cancel);
    cases.put("health_check", this::healthCheck);
    cases.put("health_watch", this::healthWatch);
    cases.put("gzip", this::gzip);
    cases.put("too_large", this::tooLarge);
    cases.put("concurrent_500", this::concurrent500);
    cases.put("sequential_5000", this::sequential5000);
    cases.put("permission_denied", this::permissionDenied);
    cases.put("reconnect", this::reconnect);
    for (String name : options.cases) {
      String detail = "";
      try {
        cases.get(name).run();
      } catch (Exception | AssertionError error) {
        detail = error.toString();
      }
      JsonObject line = new JsonObject();
      line.addProperty("case", name);
      line.addProperty("ok", detail.isEmpty());
      line.addProperty("detail", detail);
      System.out.println(line);
    }
  }

  private void get() throws Exception {
    expect("the Interaction", unary(GET, first()), expected());
  }

  private void expectList(String name, int pageSize, int expectedPages, int leastBytes) {
    Session session = options.sessions.get(name);
    ListInteractionsRequest.Builder request =
        ListInteractionsRequest.newBuilder()
            .setServiceSid(options.service_sid)
            .setSessionSid(session.session_sid)
            .setPageSize(pageSize);
    List<String> sids = new ArrayList<>();
    int pages = 0;
    int size = 0;
    do {
      ListInteractionsResponse page = unary(LIST, request.build());
      if (++pages == 1) {
        size = page.getSerializedSize();
      }
      page.getInteractionsList().forEach(interaction -> sids.add(interaction.getSid()));
      request.setPageToken(page.getNextPageToken());
    } while (!request.getPageToken().isEmpty());
    expect("SIDs", sids, session.sids);
    expect("pages", pages, expectedPages);
    expect("the size " + size + " is right", leastBytes < size && size < MESSAGE_MAX, true);
  }

  private void record() {
    RecordInteractionRequest request = recordRequest(0, "{}");
    RecordInteractionResponse created = unary(RECORD, request);
    RecordInteractionResponse again = unary(RECORD, request);
    expect("outcome", created.getOutcome(), RecordOutcome.RECORD_OUTCOME_CREATED);
    expect("outcome", again.getOutcome(), RecordOutcome.RECORD_OUTCOME_UNCHANGED);
    expect("recorded", created.getInteraction(), request.getInteraction());
    expect("read", unary(GET, written(0)).getInteraction(), request.getInteraction());
  }

  private void recordStream() throws Exception {
    CompletableFuture<RecordInteractionsResponse> response = new CompletableFuture<>();
    StreamObserver<RecordInteractionsRequest> requests =
        ClientCalls.asyncClientStreamingCall(
            channel.newCall(RECORD_STREAM, within(DEADLINE_SECONDS * 1000)), into(response));
    for (int n = 0; n < 5; n++) {
      requests.onNext(batch(100 + 50 * n, 50));
    }
    requests.onCompleted();
    RecordInteractionsResponse counts = response.get();
    expect("created", counts.getCreated(), 250L);
    expect("failed", counts.getFailed(), 0L);
  }

  private void delete() {
    unary(RECORD, recordRequest(1, "{}"));
    GetInteractionRequest written = written(1);
    unary(
        DELETE,
        DeleteInteractionRequest.newBuilder()
            .setServiceSid(written.getServiceSid())
            .setSessionSid(written.getSessionSid())
            .setSid(written.getSid())
            .build());
    fails(channel, GET, written, Code.NOT_FOUND);
  }

  private void errorDetails() throws Exception {
    GetInteractionRequest missing = first().toBuilder().setSid("KI" + "0".repeat(32)).build();
    StatusRuntimeException error = fails(channel, GET, missing, Code.NOT_FOUND);
    expect("reason", reasonOf(error), "ERROR_REASON_INTERACTION_NOT_FOUND");
  }

  private void metadata() throws Exception {
    String sent = options.name + "-metadata";
    AtomicReference<Metadata> trailers = new AtomicReference<>();
    Channel observed =
        ClientInterceptors.intercept(
            withHeader(channel, REQUEST_ID, sent),
            MetadataUtils.newCaptureMetadataInterceptor(new AtomicReference<>(), trailers));
    ClientCalls.blockingUnaryCall(observed, GET, within(DEADLINE_SECONDS * 1000), first());
    expect("x-request-id", trailers.get().get(REQUEST_ID), sent);
    for (Channel wrong :
        List.of(plain, withHeader(plain, AUTHORIZATION, options.authorization + "x"))) {
      StatusRuntimeException error = fails(wrong, GET, first(), Code.UNAUTHENTICATED);
      expect("reason", reasonOf(error), "ERROR_REASON_UNAUTHENTICATED");
      expect("has a request ID", error.getTrailers().containsKey(REQUEST_ID), true);
    }
  }

  private void deadline() throws Exception {
    CompletableFuture<RecordInteractionsResponse> response = new CompletableFuture<>();
    ClientCalls.asyncClientStreamingCall(
        withHeader(channel, REQUEST_ID, options.name + "-deadline")
            .newCall(RECORD_STREAM, within(SHORT_DEADLINE_MS)),
        into(response));
    expect("code", codeOf(response), Code.DEADLINE_EXCEEDED);
    get();
  }

  // Cancels a stream in the middle: after its first batch was recorded.
  private void cancel() throws Exception {
    CompletableFuture<RecordInteractionsResponse> response = new CompletableFuture<>();
    ClientCall<RecordInteractionsRequest, RecordInteractionsResponse> call =
        withHeader(channel, REQUEST_ID, options.name + "-cancel")
            .newCall(RECORD_STREAM, within(DEADLINE_SECONDS * 1000));
    ClientCalls.asyncClientStreamingCall(call, into(response)).onNext(batch(400, 10));
    long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(DEADLINE_SECONDS);
    for (boolean found = false; !found; ) {
      try {
        unary(GET, written(400));
        found = true;
      } catch (StatusRuntimeException error) {
        expect("code", error.getStatus().getCode(), Code.NOT_FOUND);
      }
      expect("the stream recorded in time", System.nanoTime() < end, true);
    }
    call.cancel("the case cancels it", null);
    expect("code", codeOf(response), Code.CANCELLED);
    get();
  }

  private void healthCheck() {
    for (String name : List.of("", "interaction_svc.v1.InteractionService")) {
      HealthCheckRequest request = HealthCheckRequest.newBuilder().setService(name).build();
      expect("health", unary(CHECK, request).getStatus(), ServingStatus.SERVING);
    }
    HealthCheckRequest unknown = HealthCheckRequest.newBuilder().setService("unknown").build();
    fails(channel, CHECK, unknown, Code.NOT_FOUND);
  }

  private void healthWatch() {
    ClientCall<HealthCheckRequest, HealthCheckResponse> call =
        channel.newCall(WATCH, within(DEADLINE_SECONDS * 1000));
    Iterator<HealthCheckResponse> responses =
        ClientCalls.blockingServerStreamingCall(call, HealthCheckRequest.getDefaultInstance());
    expect("health", responses.next().getStatus(), ServingStatus.SERVING);
    call.cancel("the case cancels it", null);
    try {
      responses.next();
      throw new AssertionError("the watch goes on");
    } catch (StatusRuntimeException error) {
      expect("code", error.getStatus().getCode(), Code.CANCELLED);
    }
  }

  private void gzip() {
    RecordInteractionRequest request = recordRequest(2, "gzip".repeat(10_000));
    CallOptions compressing = within(DEADLINE_SECONDS * 1000).withCompression("gzip");
    expect(
        "recorded",
        ClientCalls.blockingUnaryCall(channel, RECORD, compressing, request).getInteraction(),
        request.getInteraction());
  }

  private void tooLarge() throws Exception {
    fails(channel, RECORD, recordRequest(3, "x".repeat(5 << 20)), Code.RESOURCE_EXHAUSTED);
    get();
  }

  private void concurrent500() throws Exception {
    get();
    List<ListenableFuture<GetInteractionResponse>> responses = new ArrayList<>();
    for (int n = 0; n < 500; n++) {
      responses.add(
          ClientCalls.futureUnaryCall(
              channel.newCall(GET, within(DEADLINE_SECONDS * 1000)), first()));
    }
    for (ListenableFuture<GetInteractionResponse> response : responses) {
      expect("the Interaction", response.get(), expected());
    }
  }

  private void sequential5000() throws Exception {
    for (int n = 0; n < 5000; n++) {
      get();
    }
  }

  private void permissionDenied() {
    fails(channel, GET, first(), Code.PERMISSION_DENIED);
  }

  // Calls before and after a restart of the server, which follows the line `restart`.
  private void reconnect() throws Exception {
    get();
    System.out.println("restart");
    String answer = new BufferedReader(new InputStreamReader(System.in)).readLine();
    expect("the answer", answer, "restarted");
    ClientCalls.blockingUnaryCall(
        channel, GET, within(DEADLINE_SECONDS * 1000).withWaitForReady(), first());
  }

  private static <Q extends Message, A extends Message> MethodDescriptor<Q, A> method(
      String name, MethodType type, Q request, A response) {
    return MethodDescriptor.<Q, A>newBuilder()
        .setType(type)
        .setFullMethodName(name)
        .setRequestMarshaller(ProtoUtils.marshaller(request))
        .setResponseMarshaller(ProtoUtils.marshaller(response))
        .build();
  }

  private static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  private static Channel withHeader(Channel channel, Metadata.Key<String> name, String value) {
    Metadata headers = new Metadata();
    headers.put(name, value);
    return ClientInterceptors.intercept(
        channel, MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  private static CallOptions within(long milliseconds) {
    return CallOptions.DEFAULT.withDeadlineAfter(milliseconds, TimeUnit.MILLISECONDS);
  }

  private <Q, A> A unary(MethodDescriptor<Q, A> method, Q request) {
    return ClientCalls.blockingUnaryCall(
        channel, method, within(DEADLINE_SECONDS * 1000), request);
  }

  private static <Q> StatusRuntimeException fails(
      Channel channel, MethodDescriptor<Q, ?> method, Q request, Code code) {
    try {
      ClientCalls.blockingUnaryCall(channel, method, within(DEADLINE_SECONDS * 1000), request);
    } catch (StatusRuntimeException error) {
      expect("code", error.getStatus().getCode(), code);
      return error;
    }
    throw new AssertionError("the call succeeded instead of " + code);
  }

  private static <A> StreamObserver<A> into(CompletableFuture<A> response) {
    return new StreamObserver<>() {
      @Override
      public void onNext(A value) {
        response.complete(value);
      }

      @Override
      public void onError(Throwable error) {
        response.completeExceptionally(error);
      }

      @Override
      public void onCompleted() {}
    };
  }

  private static Code codeOf(CompletableFuture<?> response) throws InterruptedException {
    try {
      response.get();
      return Code.OK;
    } catch (ExecutionException error) {
      return io.grpc.Status.fromThrowable(error.getCause()).getCode();
    }
  }

  private static String reasonOf(StatusRuntimeException error) throws Exception {
    for (Any detail : Status.parseFrom(error.getTrailers().get(DETAILS)).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        return detail.unpack(ErrorInfo.class).getReason();
      }
    }
    return "";
  }

  private GetInteractionRequest first() {
    Session paged = options.sessions.get("paged");
    return getRequest(paged.session_sid, paged.sids.get(0));
  }

  private GetInteractionResponse expected() throws Exception {
    return GetInteractionResponse.parseFrom(Base64.getDecoder().decode(options.expected));
  }

  private GetInteractionRequest written(int number) {
    return getRequest(
        options.sessions.get("written").session_sid, options.new_sids.get(number));
  }

  private GetInteractionRequest getRequest(String session, String sid) {
    return GetInteractionRequest.newBuilder()
        .setServiceSid(options.service_sid)
        .setSessionSid(session)
        .setSid(sid)
        .build();
  }

  // Returns a new Interaction of the Session `written`; each number has another SID.
  private Interaction interaction(int number, String data) {
    Timestamp time =
        Timestamp.newBuilder().setSeconds(1_771_070_400L + number).setNanos(123_456_000).build();
    return Interaction.newBuilder()
        .setSid(options.new_sids.get(number))
        .setAccountSid(options.account_sid)
        .setServiceSid(options.service_sid)
        .setSessionSid(options.sessions.get("written").session_sid)
        .setType(InteractionType.INTERACTION_TYPE_MESSAGE)
        .setData(data)
        .setCreateTime(time)
        .setUpdateTime(time)
        .build();
  }

  private RecordInteractionRequest recordRequest(int number, String data) {
    return RecordInteractionRequest.newBuilder().setInteraction(interaction(number, data)).build();
  }

  private RecordInteractionsRequest batch(int start, int count) {
    RecordInteractionsRequest.Builder request = RecordInteractionsRequest.newBuilder();
    for (int number = start; number < start + count; number++) {
      request.addInteractions(interaction(number, "x".repeat(1000)));
    }
    return request.build();
  }

  private static void expect(String what, Object seen, Object expected) {
    if (!seen.equals(expected)) {
      String[] shown = {expected.toString(), seen.toString()};
      for (int n = 0; n < shown.length; n++) {
        shown[n] = shown[n].substring(0, Math.min(200, shown[n].length()));
      }
      throw new AssertionError(what + ": expected " + shown[0] + ", not " + shown[1]);
    }
  }
}
