// Reads {"answers": [...], "asked": [{"answer": i, "key": "...", "zone": "..." or null}]} and prints what the
// JavaScript reference makes of it: the digest of each answer, and the owners of each key.
import { readFileSync } from "node:fs";
import { Routing } from "../../ring/reference.mjs";

const { answers, asked } = JSON.parse(readFileSync(0, "utf8"));
const routings = answers.map((answer) => new Routing(answer));
console.log(JSON.stringify({
  digests: await Promise.all(routings.map((routing) => routing.digest())),
  owners: asked.map(({ answer, key, zone }) => routings[answer].owners(key, zone ?? undefined)),
}));
