// Prints JSON.stringify of a list of Interactions, as users of Twilio's Node SDK save it.
//
//   node dump.mjs BASE_URL ACCOUNT_SID SERVICE_SID SESSION_SID

import twilio from "twilio";

const [baseUrl, accountSid, serviceSid, sessionSid] = process.argv.slice(2);
const client = twilio(accountSid, "secret");
client.proxy.baseUrl = baseUrl;
const session = client.proxy.v1.services(serviceSid).sessions(sessionSid);
console.log(JSON.stringify(await session.interactions.list()));
