// Decides a corpus in JavaScript and says how many decisions are not the expected ones. For Node and for a page.

import { Policy, RefusedError } from "./edgelattice.mjs";

export async function compare(module, cases) {
  const policy = await Policy.load(module);
  let decided = 0, wrong = 0, refused = 0;
  for (const { view, asked } of cases) {
    policy.plan(view);
    for (const { request, ejected, expected } of asked) {
      decided += 1;
      if (policy.decideText(request, ejected) !== expected) wrong += 1;
    }
  }
  for (const bad of [{ regions: [{ name: "fra", level: "ILL" }] }, { nowMicros: -1 }, { regions: Array(20000).fill({ name: "" }) }]) {
    try {
      policy.plan(bad);
    } catch (error) {
      if (error instanceof RefusedError) refused += 1;
    }
  }
  return { decided, wrong, refused };
}

if (typeof process !== "undefined") {
  const { readFile } = await import("node:fs/promises");
  const [modulePath, casesPath] = process.argv.slice(2);
  const found = await compare(await readFile(modulePath), JSON.parse(await readFile(casesPath, "utf8")));
  console.log(JSON.stringify(found));
}
