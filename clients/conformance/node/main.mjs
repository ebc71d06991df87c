// Calls a server with grpc-js, and prints for each case whether the answers were right, as a line of
// JSON. tests/system/test_clients.py starts the server, and describes the cases and the options.
//
//   node main.mjs HOST:PORT OPTIONS.json

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import protobuf from "protobufjs";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const INCLUDED = ["protos", "third_party/googleapis", "clients/conformance"];
const DEADLINE_MS = 60_000; // of each call, and of each case that waits
const SHORT_DEADLINE_MS = 300;
const MESSAGE_MAX = 4 << 20;
const GZIP = 2; // grpc_compression_algorithm

const api = grpc.loadPackageDefinition(
  loadSync(
    [
      "interaction_svc/v1/interaction_service.proto",
      "interaction_svc/v1/ingest_service.proto",
      "health.proto",
    ],
    { includeDirs: INCLUDED.map((folder) => ROOT + folder), keepCase: true, enums: String },
  ),
);
const { InteractionService, IngestService } = api.interaction_svc.v1;
const rpc = new protobuf.Root();
rpc.resolvePath = (_, file) => `${ROOT}third_party/googleapis/${file}`;
rpc.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);

const [server, path] = process.argv.slice(2);
const options = JSON.parse(readFileSync(path, "utf8"));
const { sessions, service_sid } = options;
const credentials = options.tls ? tlsCredentials(options.tls) : grpc.credentials.createInsecure();
const reading = new InteractionService(server, credentials);
const ingest = new IngestService(server, credentials);
const health = new api.grpc.health.v1.Health(server, credentials);
const inPaged = { service_sid, session_sid: sessions.paged.session_sid };
const first = { ...inPaged, sid: sessions.paged.sids[0] };

const cases = {
  async get() {
    const bytes = Buffer.from(options.expected, "base64");
    const expected = InteractionService.service.GetInteraction.responseDeserialize(bytes);
    expect("the Interaction", await unary(reading, "GetInteraction", first), expected);
  },

  async list_pages() {
    await expectList("paged", 50, 3, 0);
  },

  async list_1000() {
    await expectList("thousand", 1000, 1, 300_000);
  },

  async list_4mib() {
    await expectList("large", 1000, 2, 3_900_000);
  },

  async record() {
    const interaction = newInteraction(0, "{}");
    const created = await unary(ingest, "RecordInteraction", { interaction });
    const again = await unary(ingest, "RecordInteraction", { interaction });
    const read = await unary(reading, "GetInteraction", written(0));
    expect("outcome", created.outcome, "RECORD_OUTCOME_CREATED");
    expect("outcome", again.outcome, "RECORD_OUTCOME_UNCHANGED");
    expect("recorded", created.interaction, asDecoded(interaction));
    expect("read", read.interaction, asDecoded(interaction));
  },

  async record_stream() {
    const { call, response } = recordStream(metadata());
    for (let n = 0; n < 5; n += 1) {
      call.write(batch(100 + 50 * n, 50));
    }
    call.end();
    const { created, failed } = await response;
    expect("created", Number(created), 250);
    expect("failed", Number(failed ?? 0), 0);
  },

  async delete() {
    await unary(ingest, "RecordInteraction", { interaction: newInteraction(1, "{}") });
    await unary(reading, "DeleteInteraction", written(1));
    expectError(await failure(unary(reading, "GetInteraction", written(1))), "NOT_FOUND");
  },

  async error_details() {
    const missing = { ...inPaged, sid: `KI${"0".repeat(32)}` };
    const error = await failure(unary(reading, "GetInteraction", missing));
    expectError(error, "NOT_FOUND", "ERROR_REASON_INTERACTION_NOT_FOUND");
  },

  async metadata() {
    const sent = `${options.name}-metadata`;
    const call = start(reading, "GetInteraction", first, metadata({ "x-request-id": sent }));
    await call.response;
    expect("x-request-id", (await call.trailers).get("x-request-id"), [sent]);
    for (const key of [null, `${options.authorization}x`]) {
      const wrong = new grpc.Metadata();
      if (key) wrong.set("authorization", key);
      const error = await failure(unary(reading, "GetInteraction", first, wrong));
      expectError(error, "UNAUTHENTICATED", "ERROR_REASON_UNAUTHENTICATED");
      expect("request IDs", error.metadata.get("x-request-id").length, 1);
    }
  },

  async deadline() {
    const sent = metadata({ "x-request-id": `${options.name}-deadline` });
    const { response } = recordStream(sent, SHORT_DEADLINE_MS);
    expectError(await failure(response), "DEADLINE_EXCEEDED");
    await cases.get();
  },

  // Cancels a stream in the middle: after its first batch was recorded.
  async cancel() {
    const sent = metadata({ "x-request-id": `${options.name}-cancel` });
    const { call, response } = recordStream(sent);
    const failed = failure(response);
    call.write(batch(400, 10));
    const end = Date.now() + DEADLINE_MS;
    for (let found = false; !found; ) {
      found = await unary(reading, "GetInteraction", written(400)).then(
        () => true,
        (error) => expectError(error, "NOT_FOUND"),
      );
      if (Date.now() > end) throw new Error("the stream recorded nothing");
    }
    call.cancel();
    expectError(await failed, "CANCELLED");
    await cases.get();
  },

  async health_check() {
    for (const service of ["", "interaction_svc.v1.InteractionService"]) {
      expect("health", await unary(health, "Check", { service }), { status: "SERVING" });
    }
    const error = await failure(unary(health, "Check", { service: "unknown" }));
    expectError(error, "NOT_FOUND");
  },

  async health_watch() {
    const watch = health.Watch({}, metadata());
    const [response] = await once(watch, "data");
    expect("health", response, { status: "SERVING" });
    const failed = once(watch, "error");
    watch.cancel();
    expectError((await failed)[0], "CANCELLED");
  },

  async gzip() {
    const compressing = new IngestService(server, credentials, {
      "grpc.default_compression_algorithm": GZIP,
    });
    const interaction = newInteraction(2, "gzip".repeat(10_000));
    const response = await unary(compressing, "RecordInteraction", { interaction });
    expect("recorded", response.interaction, asDecoded(interaction));
    compressing.close();
  },

  async too_large() {
    const interaction = newInteraction(3, "x".repeat(5 << 20));
    const error = await failure(unary(ingest, "RecordInteraction", { interaction }));
    expectError(error, "RESOURCE_EXHAUSTED");
    await cases.get();
  },

  async concurrent_500() {
    await cases.get();
    await Promise.all(Array.from({ length: 500 }, () => cases.get()));
  },

  async sequential_5000() {
    for (let n = 0; n < 5000; n += 1) {
      await cases.get();
    }
  },

  async permission_denied() {
    expectError(await failure(unary(reading, "GetInteraction", first)), "PERMISSION_DENIED");
  },

  // Calls before and after a restart of the server, which follows the line `restart`.
  async reconnect() {
    await cases.get();
    const lines = createInterface({ input: process.stdin });
    console.log("restart");
    expect("the answer", (await once(lines, "line"))[0], "restarted");
    lines.close();
    const waiting = metadata();
    waiting.setOptions({ waitForReady: true });
    await unary(reading, "GetInteraction", first, waiting);
  },
};

for (const name of options.cases) {
  let detail = "";
  try {
    await cases[name]();
  } catch (error) {
    detail = String(error) || "failed";
  }
  console.log(JSON.stringify({ case: name, ok: detail === "", detail }));
}
for (const client of [reading, ingest, health]) {
  client.close();
}

function tlsCredentials({ ca, certificate, key }) {
  const parts = [ca, key, certificate].map((file) => (file ? readFileSync(file) : null));
  return grpc.credentials.createSsl(...parts);
}

function metadata(more = {}) {
  return grpc.Metadata.fromHttp2Headers({ authorization: options.authorization, ...more });
}

/** Starts a unary call, and gives promises of its response and its trailing metadata. */
function start(client, method, request, sent = metadata()) {
  let trailers;
  const response = new Promise((resolve, reject) => {
    const deadline = Date.now() + DEADLINE_MS;
    const call = client[method](request, sent, { deadline }, (error, value) =>
      error ? reject(error) : resolve(value),
    );
    trailers = once(call, "status").then(([status]) => status.metadata);
  });
  return { response, trailers };
}

function unary(...given) {
  return start(...given).response;
}

function recordStream(sent, deadlineMs = DEADLINE_MS) {
  let call;
  const response = new Promise((resolve, reject) => {
    const deadline = Date.now() + deadlineMs;
    call = ingest.RecordInteractions(sent, { deadline }, (error, value) =>
      error ? reject(error) : resolve(value),
    );
  });
  return { call, response };
}

/** Gives the error of a call that must fail. */
function failure(response) {
  return response.then(
    () => {
      throw new Error("the call succeeded");
    },
    (error) => error,
  );
}

async function expectList(name, pageSize, expectedPages, leastBytes) {
  const { session_sid, sids } = sessions[name];
  const { responseSerialize } = InteractionService.service.ListInteractions;
  const listed = [];
  let size = 0;
  let pages = 0;
  let page_token = "";
  do {
    const request = { service_sid, session_sid, page_size: pageSize, page_token };
    const page = await unary(reading, "ListInteractions", request);
    pages += 1;
    size ||= responseSerialize(page).length;
    listed.push(...page.interactions.map(({ sid }) => sid));
    page_token = page.next_page_token;
  } while (page_token);
  expect("SIDs", listed, sids);
  expect("pages", pages, expectedPages);
  expect(`the size ${size} is right`, leastBytes < size && size < MESSAGE_MAX, true);
}

/** Makes an Interaction of the Session `written`; each number has another SID. */
function newInteraction(number, data) {
  const time = { seconds: 1_771_070_400 + number, nanos: 123_456_000 };
  return {
    sid: options.new_sids[number],
    account_sid: options.account_sid,
    service_sid,
    session_sid: sessions.written.session_sid,
    type: "INTERACTION_TYPE_MESSAGE",
    data,
    create_time: time,
    update_time: time,
  };
}

function batch(begin, count) {
  const numbers = Array.from({ length: count }, (_, n) => begin + n);
  return { interactions: numbers.map((number) => newInteraction(number, "x".repeat(1000))) };
}

/** Gives an Interaction as the library decodes it, with its form of int64. */
function asDecoded(interaction) {
  const { requestSerialize, requestDeserialize } = IngestService.service.RecordInteraction;
  return requestDeserialize(requestSerialize({ interaction })).interaction;
}

function written(number) {
  const { session_sid } = sessions.written;
  return { service_sid, session_sid, sid: options.new_sids[number] };
}

function expectError(error, code, reason) {
  expect(`code of ${error}`, grpc.status[error.code], code);
  if (reason) expect("reason", reasonOf(error), reason);
}

function reasonOf(error) {
  const ErrorInfo = rpc.lookupType("google.rpc.ErrorInfo");
  for (const bytes of error.metadata.get("grpc-status-details-bin")) {
    for (const { type_url, value } of rpc.lookupType("google.rpc.Status").decode(bytes).details) {
      if (type_url.endsWith("/google.rpc.ErrorInfo")) return ErrorInfo.decode(value).reason;
    }
  }
  return "";
}

function expect(what, seen, expected) {
  if (isDeepStrictEqual(seen, expected)) return;
  const [wanted, got] = [expected, seen].map((value) => JSON.stringify(value).slice(0, 200));
  throw new Error(`${what}: expected ${wanted}, not ${got}`);
}
