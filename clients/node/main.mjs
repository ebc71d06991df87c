// Reads a Session over gRPC, on stubs generated from protos/. It shows how to follow the pages of
// a list, that a leg can be missing, and how to tell errors apart by their google.rpc.ErrorInfo.
//
//   node main.mjs --server 127.0.0.1:50051 --service KS... --session KC...

import { parseArgs } from "node:util";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { ErrorReason, ErrorReasonSchema } from "./gen/interaction_svc/v1/error_reason_pb.js";
import { InteractionType, ResourceStatus } from "./gen/interaction_svc/v1/interaction_pb.js";
import { InteractionService } from "./gen/interaction_svc/v1/interaction_service_pb.js";

const ERROR_DOMAIN = "interaction-svc";
const NOT_FOUND = ErrorReasonSchema.value[ErrorReason.INTERACTION_NOT_FOUND].name;
const DEADLINE_MS = 10_000; // of each call

const { values: flags } = parseArgs({
  options: {
    server: { type: "string", default: "127.0.0.1:50051" }, // HOST:PORT of the service
    service: { type: "string", default: "" }, // KS...
    session: { type: "string", default: "" }, // KC...
    "page-size": { type: "string", default: "20" }, // Interactions in a request
  },
});

// Without TLS: only for a loopback address, or a network that encrypts its traffic.
const transport = createGrpcTransport({
  baseUrl: `http://${flags.server}`,
  defaultTimeoutMs: DEADLINE_MS,
});
const client = createClient(InteractionService, transport);
const parents = { serviceSid: flags.service, sessionSid: flags.session };

try {
  const { interactions, pages } = await printSession(Number(flags["page-size"]));
  await getMissing();
  console.log(`${interactions} Interactions on ${pages} pages`);
} catch (error) {
  console.error(String(error));
  process.exitCode = 1;
}

/** Prints the Session's Interactions, oldest first, and counts them and their pages. */
async function printSession(pageSize) {
  let interactions = 0;
  let pages = 0;
  let pageToken = "";
  do {
    const response = await client.listInteractions({ ...parents, pageSize, pageToken });
    pages += 1;
    for (const interaction of response.interactions) {
      interactions += 1;
      console.log(line(interaction));
    }
    pageToken = response.nextPageToken;
  } while (pageToken); // only a missing token means the end of the list; a short page does not
  return { interactions, pages };
}

/** Asks for an Interaction that isn't there, and throws at any answer but that one. */
async function getMissing() {
  try {
    await client.getInteraction({ ...parents, sid: `KI${"0".repeat(32)}` });
  } catch (error) {
    const reason = reasonOf(error);
    if (ConnectError.from(error).code !== Code.NotFound || reason !== NOT_FOUND) {
      throw new Error(`expected not found, got ${error} (reason "${reason}")`, { cause: error });
    }
    console.log(`not found, as expected: ${reason}`);
    return;
  }
  throw new Error("found an Interaction that can't be there");
}

/**
 * Gives the reason in this service's ErrorInfo, the name of an ErrorReason; empty if the error
 * carries none, as when the service can't be reached.
 */
function reasonOf(error) {
  const details = ConnectError.from(error).findDetails(ErrorInfoSchema);
  return details.find((info) => info.domain === ERROR_DOMAIN)?.reason ?? "";
}

/** Puts an Interaction on one line; not its data, which is personal. */
function line({ sid, type, createTime, inbound, outbound }) {
  const what = `${name(InteractionType, type)} ${time(createTime)}`;
  return `${sid} ${what} ${leg(inbound)} -> ${leg(outbound)}`;
}

/**
 * Gives a leg's participant and status. A message that was sent through the API has no inbound
 * leg; of a leg that is there, either can be unknown.
 */
function leg(leg) {
  return leg ? `${leg.participantSid || "?"}/${name(ResourceStatus, leg.resourceStatus)}` : "-";
}

/** Gives an enum value's name; its number, if it is newer than these stubs. */
function name(names, value) {
  return names[value] ?? String(value);
}

/** Gives a Timestamp as text with its microseconds, which a Date would cut off. */
function time({ seconds, nanos }) {
  const wholeSeconds = new Date(Number(seconds) * 1000).toISOString().slice(0, -".000Z".length);
  return `${wholeSeconds}.${String(Math.trunc(nanos / 1000)).padStart(6, "0")}Z`;
}
