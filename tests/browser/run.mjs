// Opens a page in Chromium and prints what it leaves in window.outcome: node run.mjs CHROMIUM URL
import { chromium } from "playwright-core";

const [executablePath, url] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  const page = await browser.newPage();
  page.on("console", (line) => console.error(line.text()));
  page.on("pageerror", (error) => console.error(error));
  await page.goto(url);
  await page.waitForFunction(() => window.outcome !== undefined, undefined, { timeout: 60000 });
  console.log(JSON.stringify(await page.evaluate(() => window.outcome)));
} finally {
  await browser.close();
}
