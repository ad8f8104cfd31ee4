// One live stream, whole: socket, protocol, player, credits and recovery, behind a few calls.
//
//   const stream = new LongtakeStream({ stage: element });
//   stream.addEventListener("state", ({ detail }) => …);
//   await stream.start({ prompt: "a red circle over a green meadow" });
//   stream.prompt("the sky turns to night");
//
// Events (`detail` in parentheses): `state` ({state, position?, reason?, message?, code?}), `receipt`
// ({eventId, status, frame?, pts?}), `stats` (see `stats`), `problem` ({message, code, fatal}),
// `chunk` (the metadata of a chunk), `blocked` (the browser wants a click first).

import { negotiate } from "./negotiate.js";
import { Player } from "./player.js";
import { Session, promptMessage, startMessage } from "./protocol.js";
import { Reports } from "./reports.js";

const HEARTBEAT_MS = 1000;
const BACKOFF_FIRST_MS = 250;
const BACKOFF_MOST_MS = 5000;
const GIVE_UP_AFTER_MS = 60_000;
/** Presentation times that the frame rate is measured over. */
const RATE_WINDOW_MS = 3000;

/** The address of the live endpoint beside this page. */
export function liveUrl(base = document.baseURI, apiKey = null) {
  const url = new URL("v1/realtime/video", base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = apiKey ? new URLSearchParams({ key: apiKey }).toString() : "";
  url.hash = "";
  return url;
}

/** How long to wait before attempt `number` (from 0) to connect again. */
export function backoffMs(number, random = Math.random()) {
  return Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** number) * (0.8 + 0.4 * random);
}

export class LongtakeStream extends EventTarget {
  /**
   * @param {{stage: HTMLElement, url?: string|URL, apiKey?: string|null, format?: string|null,
   *   codec?: string|null}} options `format` and `codec` override what the browser would choose.
   */
  constructor({ stage, url, apiKey = null, format = null, codec = null }) {
    super();
    this.url = url ?? liveUrl(document.baseURI, apiKey);
    this.wish = { format, codec, without: new Set() };
    this.session = new Session();
    this.player = new Player(stage, (message) => this.#fromPlayer(message));
    this.state = "idle";
    this.socket = null;
    this.paused = false;
    this.hidden = document.hidden;
    this.frame = -1;
    this.reports = this.#newReports();
    this.attempts = 0;
    this.lostAt = null;
    this.waiting = new Map();
    this.applied = [];
    this.eventCount = 0;
    this.shownAt = [];
    this.numbers = { bufferedMs: 0, stalls: 0, stalledMs: 0, rate: 1, chunkMs: null, steps: null };
    this.onVisibility = () => this.#visibility();
    document.addEventListener("visibilitychange", this.onVisibility);
  }

  /** Whether there is a stream that can be spoken to. */
  get active() {
    return ["connecting", "queued", "buffering", "playing", "reconnecting"].includes(this.state);
  }

  /** Begin. `choice`: `{prompt, model?, seed?, steps?, width?, height?}`. */
  async start(choice) {
    this.#become("connecting");
    const { format, codec } = await negotiate(globalThis, this.wish);
    if (this.state !== "connecting") return;
    this.choice = { ...choice, format, codec };
    this.latestPrompt = choice.prompt;
    this.session.starting();
    this.#connect();
  }

  /** Change the prompt of the running stream; returns the id its receipts will carry. */
  prompt(text) {
    this.eventCount += 1;
    const eventId = `prompt-${this.eventCount}`;
    const message = promptMessage(eventId, text);
    this.latestPrompt = text;
    // Kept until it is confirmed: a message sent into a dying connection is sent again.
    this.waiting.set(eventId, message);
    this.#send(message);
    return eventId;
  }

  pause() {
    if (this.paused || !this.active) return;
    this.paused = true;
    this.#hold();
    this.#send({ type: "session.pause" });
    this.#become(this.state);
  }

  play() {
    if (!this.paused) return;
    this.paused = false;
    this.#hold();
    this.#send({ type: "session.play" });
    this.#become(this.state);
  }

  /** End the stream on purpose. */
  stop() {
    if (!this.active) return;
    this.#send({ type: "session.stop" });
    this.#end("done", { reason: "stopped" });
  }

  /** What a panel may show; milliseconds and counts. */
  get stats() {
    const now = performance.now();
    this.shownAt = this.shownAt.filter((at) => now - at < RATE_WINDOW_MS);
    const span = Math.max(1, now - (this.shownAt[0] ?? now));
    const fps = this.shownAt.length > 1 ? (1000 * (this.shownAt.length - 1)) / span : 0;
    return { ...this.numbers, fps, frame: this.frame, format: this.session.format };
  }

  #newReports() {
    return new Reports({
      send: (message) => this.#send(message),
      dead: () => this.socket.close(),
      now: () => performance.now(),
      hidden: this.hidden,
    });
  }

  #connect() {
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      if (this.session.canResume) this.#transmit(this.session.resumeMessage());
      else this.#transmit(startMessage(this.choice));
    };
    socket.onmessage = ({ data }) => {
      if (socket === this.socket) this.#receive(data);
    };
    socket.onclose = (event) => {
      if (socket === this.socket) this.#lost(event);
    };
  }

  #transmit(message) {
    this.socket.send(JSON.stringify(message));
  }

  #send(message) {
    const ready = this.socket?.readyState === WebSocket.OPEN && this.session.state === "live";
    if (ready && this.state !== "reconnecting") this.#transmit(message);
  }

  #receive(data) {
    let events;
    try {
      events = this.session.receive(data);
    } catch (error) {
      this.#emit("problem", { message: error.message, code: "protocol", fatal: false });
      this.socket.close();
      return;
    }
    for (const event of events) this.#on(event);
  }

  #on(event) {
    switch (event.type) {
      case "queued":
        this.#become("queued", { position: event.position });
        break;
      case "started":
        this.#started(event);
        break;
      case "chunk":
        this.#chunk(event);
        break;
      case "receipt":
        this.#receipt(event);
        break;
      case "pong":
        this.reports.pong();
        break;
      case "done":
        this.#finished(event);
        break;
      case "error":
        this.#error(event);
        break;
    }
  }

  #started({ config, format, resumed }) {
    this.config = config;
    this.attempts = 0;
    this.lostAt = null;
    this.player.configure({ config, format, resumed });
    this.#hold();
    this.#become(resumed && this.frame >= 0 ? "playing" : "buffering");
    this.#emit("started", { config, format, resumed });
    if (resumed) {
      if (this.paused) this.#send({ type: "session.pause" });
      for (const message of this.waiting.values()) this.#send(message);
      this.reports.ack();
    }
    this.reports.connected();
    clearInterval(this.heart);
    this.heart = setInterval(() => this.reports.beat(), HEARTBEAT_MS);
  }

  #chunk({ metadata, buffer }) {
    const { timings } = metadata;
    if (timings) {
      this.numbers.chunkMs = timings.denoise_ms + timings.decode_ms + timings.encode_ms;
    }
    this.numbers.steps = metadata.steps ?? null;
    try {
      this.player.push(metadata, buffer);
    } catch (error) {
      this.#emit("problem", { message: error.message, code: "protocol", fatal: false });
      this.socket.close();
      return;
    }
    this.#emit("chunk", metadata);
  }

  #receipt({ eventId, status, frame, pts }) {
    this.waiting.delete(eventId);
    if (status === "applied") {
      if (frame <= this.frame) this.#emit("receipt", { eventId, status: "shown", frame, pts });
      else this.applied.push({ eventId, frame, pts });
    }
    if (status !== "applied" || frame > this.frame) {
      this.#emit("receipt", { eventId, status, frame, pts });
    }
  }

  #finished(event) {
    this.player.finish();
    this.finishing = event;
    this.#quiet();
    // Nothing will be played out when nothing plays.
    if (this.paused || !this.config) this.#end("done", event);
  }

  #error(event) {
    if (event.eventId) {
      this.waiting.delete(event.eventId);
      this.#emit("receipt", { eventId: event.eventId, status: "refused", message: event.message });
      return;
    }
    const opening = ["connecting", "queued", "reconnecting"].includes(this.state);
    const resuming = this.state === "reconnecting";
    if (resuming && event.code === "unsupported_codec") {
      this.#startOver(this.session.format);
    } else if (resuming && event.retryable) {
      // The server let this connection go but not the stream: come back and resume.
      this.socket.close();
    } else if (opening || this.session.state === "failed") {
      this.#end("failed", { code: event.code, message: event.message });
    } else if (event.fatal) {
      this.socket.close();
    } else {
      this.#emit("problem", event);
    }
  }

  #lost(event) {
    this.#quiet();
    if (this.finishing || !this.active) return;
    if (!this.session.canResume) {
      const message = event.reason || "The connection closed before the stream began.";
      this.#end("failed", { code: "connection", message });
      return;
    }
    this.lostAt ??= performance.now();
    if (performance.now() - this.lostAt > GIVE_UP_AFTER_MS) {
      this.#end("failed", { code: "lost", message: "The server could not be reached again." });
      return;
    }
    this.#become("reconnecting");
    this.retry = setTimeout(() => this.#connect(), backoffMs(this.attempts));
    this.attempts += 1;
  }

  #fromPlayer(message) {
    if (["presented", "stalled", "drained"].includes(message.type)) {
      const { bufferedMs, stalls, stalledMs, rate } = message;
      Object.assign(this.numbers, { bufferedMs, stalls, stalledMs, rate });
    }
    switch (message.type) {
      case "presented":
        this.#presented(message.frame);
        break;
      case "stalled":
        this.reports.ack();
        this.#emit("stats", this.stats);
        break;
      case "keyframe":
        this.reports.keyframe();
        break;
      case "failed":
        this.#fallBack(message.message);
        break;
      case "blocked":
        this.#emit("blocked", {});
        break;
      case "drained":
        this.#end("done", this.finishing ?? {});
        break;
    }
  }

  #presented(frame) {
    this.frame = frame;
    this.shownAt.push(performance.now());
    if (this.state === "buffering") this.#become("playing");
    while (this.applied.length && this.applied[0].frame <= frame) {
      this.#emit("receipt", { ...this.applied.shift(), status: "shown" });
    }
    this.reports.presented(frame, this.numbers.bufferedMs);
    this.#emit("stats", this.stats);
  }

  async #fallBack(message) {
    const failed = this.session.format;
    this.wish.without.add(failed);
    this.wish.format = null;
    const { format } = await negotiate(globalThis, this.wish);
    if (format === failed || !this.active) {
      if (this.active) this.#end("failed", { code: "player", message });
      return;
    }
    this.#emit("problem", { message, code: "player", fatal: false, fallback: format });
    // Same stream, other wrapping: resume it in the format that comes next.
    this.session.format = format;
    this.session.lastChunk = -1;
    this.socket.close();
  }

  /** A server that cannot give this stream in another codec is asked for a new one. */
  #startOver(format) {
    this.#quiet();
    const socket = this.socket;
    this.socket = null;
    socket.close();
    this.session = new Session();
    this.session.starting();
    this.choice = { ...this.choice, prompt: this.latestPrompt, format, codec: null };
    this.frame = -1;
    this.reports = this.#newReports();
    this.applied = [];
    this.waiting.clear();
    this.#become("connecting");
    this.#connect();
  }

  #visibility() {
    this.hidden = document.hidden;
    this.#hold();
    this.reports.setHidden(this.hidden);
  }

  #hold() {
    this.player.setPaused(this.paused || this.hidden);
  }

  #quiet() {
    clearInterval(this.heart);
    clearTimeout(this.retry);
  }

  #end(state, detail) {
    this.#quiet();
    document.removeEventListener("visibilitychange", this.onVisibility);
    this.player.close();
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.#become(state, detail);
  }

  #become(state, detail = {}) {
    this.state = state;
    this.#emit("state", { state, paused: this.paused, ...detail });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
