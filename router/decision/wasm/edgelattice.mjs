// A compiled policy at work in JavaScript: browsers, Node, Deno, workers. No dependencies.
//
//   import { Policy } from "./edgelattice.mjs";
//   const policy = await Policy.load(bytes);                        // of `edgelattice policy compile --target wasm`
//   policy.plan({ nowMicros: Date.now() * 1000, regions: [{ name: "fra", level: "HEALTHY" }, { name: "iad" }] });
//   policy.decide({ client: "192.0.2.7", host: "shop.example.com", path: "/cart" }).region;
//
// docs/reference/wasm.md says what goes in and what comes out.

export const LEVELS = ["UNKNOWN", "HEALTHY", "DEGRADED", "FAILING", "DOWN"];
export const ERRORS = {
  1: "longer than 65536 bytes",
  2: "a size does not fit, or something is left over",
  3: "a level, a share or a moment that there is not",
  4: "no view has been taken yet",
};

/** What `location` of a request is, from where the client is in degrees. */
export function locationAt(latitude, longitude) {
  return 1 + 360 * (Math.floor(latitude + 0.5) + 90) + ((Math.floor(longitude + 0.5) + 180) % 360);
}

/** Bytes that the module does not take; nothing has changed. */
export class RefusedError extends Error {}

export class Policy {
  constructor(instance) {
    this.exports = instance.exports;
  }

  static async load(bytes) {
    const { instance } = await WebAssembly.instantiate(bytes);
    if (instance.exports.abi() !== 3) throw new RefusedError(`ABI ${instance.exports.abi()} is not known here`);
    return new Policy(instance);
  }

  /** Take a view: `regions` nearest first. When to plan anew, in microseconds since 1970; null when never. */
  plan({ nowMicros = 0, regions = [] }) {
    const out = new Writer().number(BigInt(nowMicros), 8).number(regions.length, 2);
    for (const { name, level = "UNKNOWN", saturationPpm = 0, awayPpm = 0 } of regions) {
      out.text(name).number(LEVELS.indexOf(level) & 255, 1).number(saturationPpm, 4).number(awayPpm, 4);
    }
    this.#checked(this.exports.plan(this.#give(out.bytes)));
    const until = BigInt.asUintN(64, this.exports.valid_until());
    return until === (1n << 64n) - 1n ? null : until;
  }

  /** The decision, as the canonical bytes say it. */
  decide(request, ejected = []) {
    return JSON.parse(this.decideText(request, ejected));
  }

  /** The canonical bytes themselves; they are ASCII. */
  decideText(
    {
      client = "", host = "", path = "/", method = "GET", country = "", continent = "", upgrade = "", sni = "",
      asn = 0, location = 0, port = 0, headers = [],
    },
    ejected = [],
  ) {
    const out = new Writer();
    for (const text of [client, host, path, method, country, continent, upgrade, sni]) out.text(text);
    out.number(asn, 4).number(location, 2).number(port, 2).number(headers.length, 2);
    for (const [name, value] of headers) out.text(name).text(value);
    out.number(ejected.length, 2);
    for (const [address, itsPort] of ejected) out.text(address).number(itsPort, 2);
    const size = this.#checked(this.exports.decide(this.#give(out.bytes)));
    return new TextDecoder().decode(new Uint8Array(this.exports.memory.buffer, this.exports.output(), size));
  }

  #give(bytes) {
    const at = this.exports.alloc(bytes.length);
    if (at === 0) throw new RefusedError(ERRORS[1]);
    new Uint8Array(this.exports.memory.buffer, at, bytes.length).set(bytes);
    return bytes.length;
  }

  #checked(answer) {
    if (answer < 0) throw new RefusedError(ERRORS[-answer]);
    return answer;
  }
}

class Writer {
  bytes = [];

  number(value, size) {
    for (let rest = BigInt(value), place = 0; place < size; place++, rest >>= 8n) this.bytes.push(Number(rest & 255n));
    return this;
  }

  text(value) {
    const encoded = new TextEncoder().encode(value);
    if (encoded.length > 0xffff) throw new RefusedError(ERRORS[1]);
    this.number(encoded.length, 2);
    for (const byte of encoded) this.bytes.push(byte);
    return this;
  }
}
