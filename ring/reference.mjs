// Who owns a key, in JavaScript: the rules of docs/reference/ring.md, for web pages and as a pattern for other languages.
// It needs nothing but the language and WebCrypto, and gives what ring/*.py gives (tests/ring/vectors.json).

const POINTS = 400, SLOTS = 10000, DRAWS = 64, OVERFULL = 12500, CIRCLE = 2 ** 32;
const GATE_SEED = 0x67617465, ZONE_SEED = 0x7a6f6e65;

const utf8 = (text) => typeof text === "string" ? new TextEncoder().encode(text) : text;
const rounded = (number) => Math.floor(number + 0.5);
const thousandths = (worker) => rounded(worker.weight * 1000);
const basisPoints = (share) => Math.min(Math.max(rounded(share * SLOTS), 0), SLOTS);

/** MurmurHash3, x86, 32 bits, unsigned, of a string's UTF-8 or of bytes. */
export function hash(text, seed = 0) {
  const bytes = utf8(text), rotl = (x, r) => (x << r) | (x >>> (32 - r));
  const mix = (k) => Math.imul(rotl(Math.imul(k, 0xcc9e2d51), 15), 0x1b873593);
  let h = seed, i = 0, k = 0;
  for (; i + 4 <= bytes.length; i += 4)
    h = (Math.imul(rotl(h ^ mix(bytes[i] | bytes[i + 1] << 8 | bytes[i + 2] << 16 | bytes[i + 3] << 24), 13), 5)
         + 0xe6546b64) | 0;
  for (let j = bytes.length - 1; j >= i; j--) k = k << 8 | bytes[j];
  h ^= mix(k) ^ bytes.length;
  h = Math.imul(h ^ h >>> 16, 0x85ebca6b);
  h = Math.imul(h ^ h >>> 13, 0xc2b2ae35);
  return (h ^ h >>> 16) >>> 0;
}

/** Strings by code point, which is the order of their UTF-8 bytes; `<` compares UTF-16. */
export function byCodePoint(a, b) {
  const one = utf8(a), other = utf8(b);
  for (let i = 0; i < one.length && i < other.length; i++) if (one[i] !== other[i]) return one[i] - other[i];
  return one.length - other.length;
}

const slotOf = (key, seed) => Math.floor(hash(key, seed) * SLOTS / CIRCLE);

/** Which release serves a key. Groups are candidates' names, and null for the rest. */
export class Gate {
  constructor(canary) {
    const wanted = new Map();
    for (const { release, share } of canary) if (!wanted.has(release)) wanted.set(release, basisPoints(share));
    this.groups = [null, ...wanted.keys()];
    this.slots = new Array(SLOTS).fill(0);
    let free = SLOTS;
    [...wanted.values()].forEach((share, index) => {
      let left = Math.min(share, free);
      free -= left;
      for (const slot of lane(index)) {
        if (!left) break;
        if (!this.slots[slot]) { this.slots[slot] = index + 1; left--; }
      }
    });
    this.shares = this.groups.map((_, number) => this.slots.filter((held) => held === number).length);
  }

  group(release) { return this.groups.includes(release) ? release : null; }

  /** All of the living groups, in a key's order of preference. */
  order(key, living) {
    const left = new Set(living), found = [];
    for (let draw = 0; draw < DRAWS && left.size > 1; draw++) {
      const group = this.groups[this.slots[slotOf(key, GATE_SEED + draw)]];
      if (left.delete(group)) found.push(group);
    }
    const number = (group) => this.groups.indexOf(group);
    return [...found, ...[...left].sort((a, b) => this.shares[number(b)] - this.shares[number(a)] || number(a) - number(b))];
  }
}

function* lane(index) {
  let home = 0, step = SLOTS;
  for (let pair = index >> 1; pair; pair >>= 1) { step = Math.floor(step / 2); home += step * (pair & 1); }
  for (let i = 0; i < SLOTS; i++) yield (index % 2 ? home - 1 - i + 2 * SLOTS : home + i) % SLOTS;
}

/** Points around the circle as [position, name], of the workers of one group. */
export function ring(workers) {
  const points = workers.flatMap((worker) => {
    const count = Math.max(1, Math.floor((thousandths(worker) * POINTS + 500) / 1000));
    return Array.from({ length: count }, (_, j) => [hash(`${worker.name}#${j}`), worker.name]);
  });
  return points.sort((a, b) => a[0] - b[0] || byCodePoint(a[1], b[1]));
}

/** The names on a ring, in the order in which a key's way around meets them. */
export function walk(points, key) {
  const at = hash(key), found = points.findIndex(([position]) => position >= at), start = found < 0 ? 0 : found;
  return [...new Set([...points.slice(start), ...points.slice(0, start)].map(([, name]) => name))];
}

const routable = (worker) => ["alive", "suspect"].includes(worker.liveness)
  && ["passing", "warning"].includes(worker.readiness) && worker.weight > 0;

/** The owners of every key, from an answer of GET /v1/workers. */
export class Routing {
  constructor({ service, workers, policy }) {
    const lives = workers.filter(routable).sort((a, b) => byCodePoint(a.name, b.name)
      || a.generation - b.generation || byCodePoint(a.instance, b.instance));
    this.workers = new Map(lives.map((worker) => [worker.name, worker]));
    this.service = service;
    this.policy = policy;
    this.gate = new Gate(policy.canary);
    this.groups = new Map();
    for (const worker of this.workers.values()) {
      const group = this.gate.group(worker.release);
      this.groups.set(group, [...this.groups.get(group) ?? [], worker]);
    }
    this.rings = new Map([...this.groups].map(([group, members]) => [group, ring(members)]));
  }

  /** All names in a key's order of preference. `zone` is the caller's; without one the policy's counts. */
  owners(key, zone = this.policy.zone) {
    return this.gate.order(key, this.rings.keys()).flatMap((group) => {
      const names = walk(this.rings.get(group), key);
      if (!zone) return names;
      const stays = slotOf(key, ZONE_SEED) < this.kept(zone, group);
      const first = (name) => (this.workers.get(name).zone === zone) === stays;
      return [...names.filter(first), ...names.filter((name) => !first(name))];
    });
  }

  /** How many of 10 000 keys for a group stay in a zone. */
  kept(zone, group) {
    const sum = (workers) => workers.reduce((total, worker) => total + BigInt(thousandths(worker)), 0n);
    const members = this.groups.get(group), total = sum(members);
    const zones = new Set([...this.workers.values()].map((worker) => worker.zone)).size;
    const here = sum(members.filter((worker) => worker.zone === zone));
    return total ? Math.min(SLOTS, Number(BigInt(OVERFULL) * here * BigInt(zones) / total)) : 0;
  }

  canonical() {
    return JSON.stringify(["rumormill-routing/2", this.service,
      [...this.workers.values()].map((w) => [w.name, w.generation, w.instance, w.url, w.zone, w.release, thousandths(w)]),
      this.policy.canary.map(({ release, share }) => [release, basisPoints(share)]), this.policy.zone]);
  }

  async digest() {
    const whole = new Uint8Array(await crypto.subtle.digest("SHA-256", utf8(this.canonical())));
    return [...whole.slice(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }
}
