// The page of one sidecar. It reads the same routes as every other caller, and is told of changes over server-sent
// events. Names come from the network: they reach the document as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const LIVENESS = { alive: ["●", "good"], suspect: ["◐", "warn"], dead: ["✖", "bad"], left: ["○", "idle"] };
const READINESS = {
  passing: ["✔", "good"], warning: ["▲", "warn"], critical: ["✖", "bad"], draining: ["⇣", "idle"], starting: ["…", "idle"],
};
const EVENT_CLASS = { evicted: "bad", isolated: "bad", taken: "bad", suspected: "warn", refused: "warn", paused: "warn" };
const MAX_OUTLINED = 100;  // with more parts, the lines between them would hide them
const MAX_EVENTS = 300;
const REFRESH_LOAD_MS = 2000;

const state = { members: [], workers: [], status: null, policy: { canary: [] }, events: [], process: "", found: "" };
let token = sessionStorage.getItem("rumormill-token") || "";

class Unauthorized extends Error {}

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  const bearer = options.token ?? token;
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) throw new Unauthorized((await problem(response)) || "the token is wrong");
  if (!response.ok) throw new Error((await problem(response)) || `${path} answered ${response.status}`);
  return response;
}

async function problem(response) {
  try {
    const { detail, hint } = await response.json();
    return hint ? `${detail}: ${hint}` : detail;
  } catch {
    return "";
  }
}

const json = async (path) => (await ask(path)).json();

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// --- what is shown

const clock = (stamp) => stamp.replace(/^.*T/, "").replace(/Z$/, "");
const percent = (part) => `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %`;

function showSummary() {
  const present = state.members.filter((one) => one.liveness === "alive" || one.liveness === "suspect");
  const routable = state.workers.filter((one) => one.readiness === "passing" || one.readiness === "warning");
  const suspects = routable.filter((one) => one.liveness === "suspect").length;
  const loads = routable.map((one) => one.utilization).filter((load) => load !== null && load !== undefined);
  const cards = [
    ["Members present", present.length],
    ["Workers that take work", routable.length],
    ["May fail before one is left", Math.max(routable.length - suspects - 1, 0)],
    ["Suspect", state.members.filter((one) => one.liveness === "suspect").length],
    ["Dead", state.members.filter((one) => one.liveness === "dead").length],
    ["Mean load", loads.length ? percent(loads.reduce((sum, load) => sum + load, 0) / loads.length) : "unknown"],
  ];
  $("summary").replaceChildren(...cards.map(([name, value]) => {
    const card = element("div");
    card.append(element("dt", name), element("dd", String(value)));
    return card;
  }));
}

function showBanners() {
  const { status } = state;
  const banners = [];
  if (status.isolated) {
    banners.push([`This sidecar is ${status.connectivity}: ${status.connectivity_why}. It shows the others as it last knew them.`, ""]);
  }
  if (status.seal === "plaintext") {
    banners.push(["Gossip is in plaintext: anybody on the network can read and forge it.", "warning"]);
  }
  if (status.stopped) banners.push([status.stopped, ""]);
  if (status.unready) banners.push([`This sidecar's own worker takes no new work: ${status.unready}.`, "warning"]);
  const made = banners.map(([text, kind]) => element("p", text, `banner ${kind}`));
  if ($("banners").textContent !== made.map((one) => one.textContent).join("")) $("banners").replaceChildren(...made);
  $("cluster").textContent = status.cluster;
  $("observer").textContent = `as ${status.name} sees it`;
  document.title = `${status.isolated ? "cut off: " : ""}${status.cluster} (rumormill)`;
}

function stateCell(word, marks) {
  const [mark, kind] = marks[word] || ["?", "idle"];
  const cell = element("td");
  const sign = element("span", `${mark} `, kind);
  sign.setAttribute("aria-hidden", "true");
  cell.append(sign, element("span", word, `state ${kind}`));
  return cell;
}

function loadCell(load) {
  const cell = element("td");
  if (load === null || load === undefined) return cell;
  const meter = document.createElement("meter");
  Object.assign(meter, { min: 0, max: 1, low: 0.6, high: 0.9, optimum: 0, value: Math.min(load, 1) });
  meter.setAttribute("aria-label", "load");
  cell.append(meter, ` ${percent(load)}`);
  return cell;
}

function memberRow(member, load) {
  const row = document.createElement("tr");
  if (member.liveness === "dead" || member.liveness === "left") row.className = "gone";
  const name = element("th", member.pending ? `${member.name} (waits for its name)` : member.name);
  name.scope = "row";
  const cells = [
    name, stateCell(member.liveness, LIVENESS), stateCell(member.readiness, READINESS), element("td", member.service),
    element("td", member.release), element("td", member.zone), element("td", String(member.weight)), loadCell(load),
    element("td", clock(member.since)), element("td", member.why),
  ];
  const titles = ["Name", "Liveness", "Readiness", "Service", "Release", "Zone", "Weight", "Load", "Since", "Why"];
  cells.forEach((cell, at) => { cell.dataset.name = titles[at]; });
  row.append(...cells);
  return row;
}

function showMembers() {
  const wanted = $("filter").value.trim().toLowerCase();
  const loads = new Map(state.workers.map((one) => [one.instance, one.utilization]));
  const shown = state.members.filter((one) => !wanted || [one.name, one.service, one.zone, one.release, one.liveness,
    one.readiness, one.why].some((text) => text.toLowerCase().includes(wanted)));
  $("members").replaceChildren(...shown.map((one) => memberRow(one, loads.get(one.instance))));
  $("shown").textContent = wanted ? `${shown.length} of ${state.members.length}` : "";
}

function showEvents() {
  $("events").replaceChildren(...state.events.slice(-MAX_EVENTS).reverse().map((event) => {
    const line = element("li", "", EVENT_CLASS[event.kind] || "");
    const time = element("time", clock(event.at));
    time.dateTime = event.at;
    line.append(time, event.text);
    return line;
  }));
}

// --- the ring

function shares() {
  const ready = state.workers.filter((one) => (one.readiness === "passing" || one.readiness === "warning") && one.weight > 0);
  const canaries = new Map(state.policy.canary.map((canary) => [canary.release, canary.share]));
  const group = (worker) => (canaries.has(worker.release) ? worker.release : "");
  const weights = new Map();
  for (const worker of ready) weights.set(group(worker), (weights.get(group(worker)) || 0) + worker.weight);
  let rest = 1;
  for (const [release, share] of canaries) if (weights.has(release)) rest -= share;
  const part = (release) => (release === "" ? Math.max(rest, 0) : canaries.get(release));
  return ready.map((worker) => ({ worker, share: part(group(worker)) * worker.weight / weights.get(group(worker)) }))
    .sort((a, b) => a.worker.name.localeCompare(b.worker.name));
}

function arc(from, to, inner, outer) {
  const end = Math.min(to, from + 0.9999);
  const point = (turn, radius) => {
    const angle = 2 * Math.PI * turn - Math.PI / 2;
    return `${(160 + radius * Math.cos(angle)).toFixed(2)} ${(160 + radius * Math.sin(angle)).toFixed(2)}`;
  };
  const large = end - from > 0.5 ? 1 : 0;
  return `M${point(from, outer)}A${outer} ${outer} 0 ${large} 1 ${point(end, outer)}L${point(end, inner)}` +
    `A${inner} ${inner} 0 ${large} 0 ${point(from, inner)}Z`;
}

function shape(tag, attributes, title = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (title) {
    const text = document.createElementNS("http://www.w3.org/2000/svg", "title");
    text.textContent = title;
    made.append(text);
  }
  return made;
}

function showRing() {
  const parts = shares();
  const total = parts.reduce((sum, { share }) => sum + share, 0) || 1;
  let from = 0;
  const drawn = [];
  for (const { worker, share } of parts) {
    const to = from + share / total;
    const load = worker.utilization;
    const title = `${worker.name}: ${percent(share)} of the keys${load === null || load === undefined ? "" : `, load ${percent(load)}`}`;
    const kind = [worker.liveness === "suspect" ? "suspect" : "", worker.name === state.found ? "found" : ""].join(" ").trim();
    drawn.push(shape("path", { d: arc(from, to, 88, 145), class: kind }, title));
    if (load) drawn.push(shape("path", { d: arc(from, to, 88, 88 + 57 * Math.min(load, 1)), class: "loaded" }, title));
    if (parts.length <= 16) {
      const angle = 2 * Math.PI * ((from + to) / 2) - Math.PI / 2;
      const label = shape("text", { x: (160 + 66 * Math.cos(angle)).toFixed(1), y: (165 + 66 * Math.sin(angle)).toFixed(1) });
      label.textContent = worker.name.length > 8 ? `${worker.name.slice(0, 7)}…` : worker.name;
      drawn.push(label);
    }
    from = to;
  }
  $("ring").replaceChildren(...drawn);
  $("ring").classList.toggle("many", parts.length > MAX_OUTLINED);
  const largest = [...parts].sort((a, b) => b.share - a.share)[0];
  $("ring-text").textContent = parts.length
    ? `${parts.length} workers take work; the largest share is ${percent(largest.share)} (${largest.worker.name}).` +
      (state.policy.canary.length ? ` Canary: ${state.policy.canary.map((one) => `${one.release} ${percent(one.share)}`).join(", ")}.` : "")
    : "No worker takes new work.";
}

function showServices(names) {
  const chosen = $("service").value;
  const known = [...$("service").options].map((option) => option.value);
  if (known.join("\n") === names.join("\n")) return;
  $("service").replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) $("service").value = chosen;
}

// --- reading

async function refresh() {
  const [status, members] = await Promise.all([json("/v1/status"), json("/v1/members")]);
  Object.assign(state, { status, members: members.members });
  showServices([...new Set(state.members.filter((one) => one.liveness !== "left").map((one) => one.service))].sort());
  await refreshWorkers();
  await refreshEvents();
  showBanners();
  showMembers();
}

async function refreshWorkers() {
  const workers = await json(`/v1/workers?service=${encodeURIComponent($("service").value)}`);
  Object.assign(state, { workers: workers.workers, policy: workers.policy });
  showSummary();
  showRing();
}

async function refreshEvents() {
  const answer = await json("/v1/events");
  state.events = answer.events;
  showEvents();
}

let refreshing = false;
let again = false;
async function refreshSoon() {
  again = true;
  if (refreshing) return;
  refreshing = true;
  try {
    while (again) {
      again = false;
      await refresh();
    }
  } finally {
    refreshing = false;
  }
}

// The stream is read with fetch, because an EventSource cannot send a token.
async function follow() {
  const response = await ask("/v1/watch");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  $("live").textContent = "live";
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the stream ended");
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    if (blocks.some((block) => block.startsWith("event:"))) await refreshSoon();
  }
}

async function run() {
  for (;;) {
    try {
      await refreshSoon();
      $("sign-in").hidden = true;
      $("pool").hidden = false;
      await follow();
    } catch (error) {
      if (error instanceof Unauthorized) {
        $("pool").hidden = true;
        $("sign-in").hidden = false;
        $("sign-in-error").textContent = token ? error.message : "";
        $("live").textContent = "signed out";
        return;
      }
      $("live").textContent = `not live: ${error.message}; trying again`;
      await new Promise((resolve) => { setTimeout(resolve, 1000); });
    }
  }
}

// --- changing

function confirmed(question) {
  $("question").textContent = question;
  $("confirm").showModal();
  return new Promise((resolve) => {
    $("confirm").addEventListener("close", () => resolve($("confirm").returnValue === "yes"), { once: true });
  });
}

async function change(question, path, options) {
  $("confirm").returnValue = "no";
  if (!(await confirmed(question))) return;
  try {
    await ask(path, { ...options, token: $("change-token").value || token });
    $("changed").textContent = "Done.";
    await refreshSoon();
  } catch (error) {
    $("changed").textContent = `Not done: ${error.message}`;
  }
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  sessionStorage.setItem("rumormill-token", token);
  run();
});
$("service").addEventListener("change", refreshWorkers);
$("filter").addEventListener("input", showMembers);
$("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = $("key").value;
  try {
    const found = await json(`/v1/lookup?service=${encodeURIComponent($("service").value)}&key=${encodeURIComponent(key)}&n=3`);
    const names = found.owners.map((owner) => owner.name);
    state.found = names[0] || "";
    $("owners").textContent = names.length ? `${key}: ${names[0]}${names.length > 1 ? `, then ${names.slice(1).join(", then ")}` : ""}` : "No worker takes new work.";
    showRing();
  } catch (error) {
    $("owners").textContent = error.message;
  }
});
$("drain").addEventListener("click", () => change(`Give the worker of ${state.status.name} no new work?`, "/v1/drain", { method: "PUT" }));
$("undrain").addEventListener("click", () => change(`Give the worker of ${state.status.name} work again?`, "/v1/drain", { method: "DELETE" }));
$("canary").addEventListener("submit", (event) => {
  event.preventDefault();
  const service = $("service").value;
  const release = $("release").value;
  const share = Number($("share").value) / 100;
  change(`Give release ${release} of ${service} ${percent(share)} of the keys?`, "/v1/canary", {
    method: "PUT", body: JSON.stringify({ service, release, share }), headers: { "Content-Type": "application/json" },
  });
});
setInterval(() => {
  if (!$("pool").hidden && !document.hidden) refreshWorkers().then(showMembers).catch(() => {});
}, REFRESH_LOAD_MS);
run();
