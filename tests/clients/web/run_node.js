// `node run_node.js FILE…`: runs test modules and prints the results as one line of JSON.

import { pathToFileURL } from "node:url";

import { runAll } from "./harness.js";

for (const file of process.argv.slice(2)) await import(pathToFileURL(file).href);
console.log(JSON.stringify(await runAll()));
