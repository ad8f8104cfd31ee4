// A test runner of forty lines, so that the same tests run under Node and in a browser.

const tests = [];

/** Register a test; its name is a sentence about behaviour. */
export function test(name, body) {
  tests.push({ name, body });
}

export function equal(actual, expected, hint = "") {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${hint} got ${a}, expected ${b}`);
}

export function near(actual, expected, tolerance) {
  if (!(Math.abs(actual - expected) <= tolerance)) {
    throw new Error(`got ${actual}, expected ${expected} within ${tolerance}`);
  }
}

export function ok(value, hint = "expected something true") {
  if (!value) throw new Error(hint);
}

export function throws(body, pattern) {
  try {
    body();
  } catch (error) {
    if (!pattern.test(error.message)) throw new Error(`threw "${error.message}", not ${pattern}`);
    return;
  }
  throw new Error(`did not throw ${pattern}`);
}

/** Run everything registered; returns `[{name, error}]`, `error` null when it passed. */
export async function runAll() {
  const results = [];
  for (const { name, body } of tests) {
    let error = null;
    try {
      await body();
    } catch (problem) {
      error = String(problem.stack ?? problem);
    }
    results.push({ name, error });
  }
  return results;
}
