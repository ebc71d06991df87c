// Runs Twilio's own Node SDK, unmodified, against a server, and prints the results as one JSON
// object, which the caller checks. Only proxy.baseUrl is set. The Session needs at least two pages of
// Interactions; the first Interaction is deleted.
//
//   node sdk.mjs BASE_URL ACCOUNT_SID SERVICE_SID SESSION_SID
//
// An unexpected exception ends it with exit status 1.

import twilio from "twilio";

const PAGE_SIZE = 7;
const UNKNOWN_SID = `KI${"0".repeat(32)}`;

const [baseUrl, accountSid, serviceSid, sessionSid] = process.argv.slice(2);

function connect(user, secret) {
  const client = twilio(user, secret);
  client.proxy.baseUrl = baseUrl;
  return client;
}

function interactionsOf(client) {
  return client.proxy.v1.services(serviceSid).sessions(sessionSid).interactions;
}

const sidsOf = (instances) => instances.map((instance) => instance.sid);

/** Gives the sids that each() streams; it follows the pages by itself. */
function stream(interactions, params) {
  const sids = [];
  return new Promise((resolve, reject) => {
    const done = (error) => (error ? reject(error) : resolve(sids));
    interactions.each({ ...params, done }, (instance) => sids.push(instance.sid));
  });
}

/** Gives the status and code with which the SDK reports that a call was refused. */
async function refusal(call) {
  let answer;
  try {
    answer = await call;
  } catch (error) {
    if (error instanceof twilio.RestException) return { status: error.status, code: error.code };
    throw error;
  }
  throw new Error(`expected a refusal, got ${JSON.stringify(answer)}`);
}

const client = connect(accountSid, "secret");
const interactions = interactionsOf(client);

const firstPage = await interactions.page({ pageSize: PAGE_SIZE });
const secondPage = await interactions.getPage(firstPage.nextPageUrl);
const backAgain = await interactions.getPage(secondPage.previousPageUrl);

const [{ sid }] = firstPage.instances;
const seen = {
  fetched: await interactions(sid).fetch(), // JSON has its Dates in ISO 8601
  listed: sidsOf(await interactions.list({ pageSize: PAGE_SIZE })),
  each: await stream(interactions, { pageSize: PAGE_SIZE }),
  firstPage: sidsOf(firstPage.instances),
  secondPage: sidsOf(secondPage.instances),
  backAgain: sidsOf(backAgain.instances),
  limited: sidsOf(await interactions.list({ limit: PAGE_SIZE + 3, pageSize: PAGE_SIZE })),
  limit5000: (await interactions.list({ limit: 5000 })).length, // sent as PageSize=5000
  errors: {},
};

await interactions(sid).remove();
seen.removed = sid;
seen.errors.removedAgain = await refusal(interactions(sid).remove());
seen.errors.removedFetched = await refusal(interactions(sid).fetch());
seen.errors.unknown = await refusal(interactions(UNKNOWN_SID).fetch());
// The SDK checks only that an account SID begins with AC.
seen.errors.credentials = await refusal(interactionsOf(connect("ACshort", "x")).list());
// The SDK has no method for unsupported operations, so this uses its HTTP client, which doesn't throw.
const list = `${baseUrl}/v1/Services/${serviceSid}/Sessions/${sessionSid}/Interactions`;
const refused = await client.request({ method: "post", uri: list });
seen.errors.method = { status: refused.statusCode, code: refused.body.code };

console.log(JSON.stringify(seen));
