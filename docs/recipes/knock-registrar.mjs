// Tells a knock-exporter which bulk operations this program starts with Knock's Node SDK.
//
//   const fetch = registering({ url: "http://127.0.0.1:10187", environment: "production",
//                               tokenFile: "/run/secrets/knock-exporter-token", group: "nightly" });
//   const knock = new Knock({ fetch });
//
// A copy of each response that starts a bulk operation goes to the exporter, and nobody waits for that. The SDK gets its
// response unchanged. Problems are warnings on the console. Needs Node.js 18 and nothing else.
import { readFile } from "node:fs/promises";

const PAUSES = [0, 1000, 2000, 4000, 8000, 15000]; // milliseconds before each attempt
const MOST_WAITING = 1000;

const name = (error) => error.cause?.code ?? error.code ?? error.name; // its text may hold the token

/**
 * Make a `fetch` for the SDK. Operations are registered in `group` and its run `run` if they are given.
 * @param {{url: string, environment: string, tokenFile: string, group?: string, run?: string, fetch?: typeof globalThis.fetch}} options
 */
export function registering({ url, environment, tokenFile, group, run, fetch = globalThis.fetch }) {
  let waiting = 0;
  let current = { group, run }; // sent with each operation; JSON leaves out what is undefined

  async function attempt(method, path, document) {
    const token = (await readFile(tokenFile, "utf8")).trim(); // each time, so that tokens can be renewed
    const answer = await fetch(`${url}/api/v1/${path}`, {
      method,
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(document),
      redirect: "error",
      signal: AbortSignal.timeout(5000),
    });
    return { status: answer.status, text: (await answer.text()).slice(0, 500) };
  }

  async function handOver(method, path, document) {
    let problem;
    for (const pause of PAUSES) {
      // unref: a program that is done does not wait for further attempts
      if (pause > 0) await new Promise((done) => setTimeout(done, pause).unref());
      try {
        const { status, text } = await attempt(method, path, document);
        if (status === 200) return;
        problem = `HTTP ${status} ${text}`;
        if (status < 500 && status !== 429) break;
      } catch (error) {
        problem = name(error);
      }
    }
    console.warn(`knock-registrar: ${document.id ?? path} was not registered: ${problem}`);
  }

  async function note(answer, labels) {
    const record = await answer.json();
    const { id, status } = record ?? {};
    if (!id || !status) return;
    if (waiting >= MOST_WAITING) return console.warn(`knock-registrar: ${id} was not registered: too many are waiting`);
    waiting += 1;
    const known = { id, name: record.name, status, inserted_at: record.inserted_at, ...labels };
    await handOver("POST", `operations/${environment}`, known).finally(() => (waiting -= 1));
  }

  /**
   * Open a run of a group. What `work` starts belongs to it. Close it at the end, but not after an error. One at a time.
   * @template T
   * @param {string} group
   * @param {{operations?: number, deadline?: string, run?: string}} options
   * @param {(run: string) => T | Promise<T>} work
   * @returns {Promise<T>}
   */
  async function inRun(group, { operations, deadline, run: id }, work) {
    const runId = id ?? new Date().toISOString().replace(/[-:]|\.\d+/g, "");
    const path = `groups/${environment}/${group.split("/").map(encodeURIComponent).join("/")}/runs/${runId}`;
    const before = current;
    handOver("PUT", path, { operations, deadline });
    current = { group, run: runId };
    const result = await (async () => work(runId))().finally(() => (current = before));
    handOver("PUT", path, { closed: true });
    return result;
  }

  /** @type {typeof globalThis.fetch} */
  const registeringFetch = async (input, init) => {
    const labels = current;
    const answer = await fetch(input, init);
    try {
      const method = init?.method ?? input?.method ?? "GET";
      const { pathname } = new URL(String(input?.url ?? input));
      if (answer.ok && method.toUpperCase() === "POST" && pathname.includes("/bulk/")) {
        note(answer.clone(), labels).catch((error) => console.warn(`knock-registrar: ${name(error)}`));
      }
    } catch (error) {
      console.warn(`knock-registrar: ${name(error)}`);
    }
    return answer;
  };
  return Object.assign(registeringFetch, { run: inRun });
}
