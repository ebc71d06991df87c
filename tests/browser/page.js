// The page: calls the service with the official clients, and leaves the outcome in window.outcome.
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { ConnectError, Code, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";

const { baseUrl, authorization, parents, sid } = Object.fromEntries(
  new URLSearchParams(location.hash.slice(1)).entries().map(([name, value]) => [name, JSON.parse(value)]),
);
const descriptors = new Uint8Array(await (await fetch("descriptors.binpb")).arrayBuffer());
const service = createFileRegistry(fromBinary(FileDescriptorSetSchema, descriptors)).getService(
  "interaction_svc.v1.InteractionService",
);
const transports = {
  "Connect, JSON": createConnectTransport({ baseUrl }),
  "Connect, protobuf": createConnectTransport({ baseUrl, useBinaryFormat: true }),
  "Connect, GET": createConnectTransport({ baseUrl, useHttpGet: true }),
  "gRPC-Web": createGrpcWebTransport({ baseUrl }),
};

async function use(transport) {
  const client = createClient(service, transport);
  const options = { headers: { authorization }, timeoutMs: 20000 };
  const got = await client.getInteraction({ ...parents, sid }, options);
  const sids = [];
  let pageToken = "";
  do {
    const page = await client.listInteractions({ ...parents, pageSize: 10, pageToken }, options);
    sids.push(...page.interactions.map((each) => each.sid));
    pageToken = page.nextPageToken;
  } while (pageToken);
  const failed = async (request, given) => {
    try {
      await client.getInteraction(request, given);
      return "OK";
    } catch (error) {
      const { code, rawMessage, details, metadata } = ConnectError.from(error);
      return { code: Code[code], rawMessage, details: details.map((each) => each.type), id: metadata.has("x-request-id") };
    }
  };
  return {
    data: got.interaction.data,
    sids,
    notFound: await failed({ ...parents, sid: "KI" + "0".repeat(32) }, options),
    invalid: await failed({}, options),
    unauthenticated: await failed({ ...parents, sid }, { headers: { authorization: "Bearer x.y" } }),
  };
}

const outcome = {};
for (const [name, transport] of Object.entries(transports)) {
  try {
    outcome[name] = await use(transport);
  } catch (error) {
    outcome[name] = String(error);
  }
}
window.outcome = outcome;
