// Opens the page in headless Chromium and does what a plan on stdin says, one JSON step a line. Answers each step with one
// line of JSON. Ends with what went wrong in the console.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.env.BROWSER_MODULES}/`);
const { chromium } = require("playwright-core");
const axe = require("axe-core").source;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
let page = null;
const complaints = [];

const steps = {
  async open({ url, width = 1280, height = 900, dark = false }) {
    const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", bypassCSP: true });
    page = await context.newPage();
    page.setDefaultTimeout(120_000);
    page.on("console", (message) => { if (message.type() === "error") complaints.push(message.text()); });
    page.on("pageerror", (error) => complaints.push(String(error)));
    await page.goto(url);
  },
  async see({ selector, text }) {
    await page.locator(selector).filter({ hasText: text }).first().waitFor({ state: "visible" });
  },
  async text({ selector }) { return page.locator(selector).innerText(); },
  async count({ selector }) { return page.locator(selector).count(); },
  async fill({ selector, value }) { await page.fill(selector, value); },
  async press({ selector, key }) { await page.press(selector, key); },
  async click({ selector }) { await page.click(selector); },
  async picture({ path }) { await page.screenshot({ path, fullPage: true }); },
  async wide() {
    // What makes the page scroll sideways, if anything does.
    return page.evaluate(() => {
      const room = document.documentElement.clientWidth;
      if (document.documentElement.scrollWidth <= room) return [];
      return ["the page", ...[...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > room + 1)
        .map((one) => `${one.tagName} ${one.id} ${one.className}`).slice(0, 8)];
    });
  },
  async axe() {
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
    return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
      .map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).slice(0, 3).join(" ")}`);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { step, ...rest } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ answer: (await steps[step](rest)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
console.log(JSON.stringify({ complaints }));
await browser.close();
