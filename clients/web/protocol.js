// The wire protocol, version 1, without a socket: what to say, and what an answer means.
//
// Knows JSON messages and how a binary message follows its metadata. Knows neither WebSocket,
// clock, decoder nor page, so it runs and is tested anywhere.

/** A server broke the protocol; the connection cannot be trusted any further. */
export class ProtocolError extends Error {}

/**
 * Where a stream stands.
 *
 * `idle` nothing asked yet · `starting` asked, no answer · `queued` waiting for room ·
 * `live` media may come · `done` ended by either side · `failed` refused or broken.
 */
export const STATES = ["idle", "starting", "queued", "live", "done", "failed"];

/** Errors after which resuming makes no sense: the stream is gone, or somebody else's. */
const ENDED = new Set([
  "session_not_found",
  "invalid_token",
  "taken_over",
  "stream_failed",
  "not_supported",
]);

/**
 * Build `session.start`. Empty choices are left out, so that the server's defaults hold.
 *
 * @param {{prompt: string, model?: string, seed?: number|null, steps?: number|null,
 *   format: "avcc"|"m4s"|"jpeg", codec?: string|null, width?: number, height?: number}} choice
 */
export function startMessage(choice) {
  const message = { type: "session.start", prompt: choice.prompt, format: choice.format };
  if (choice.codec) message.codec = choice.codec;
  if (choice.model) message.model = choice.model;
  if (choice.width && choice.height) {
    message.width = choice.width;
    message.height = choice.height;
  }
  if (Number.isSafeInteger(choice.seed)) message.seed = choice.seed;
  if (Number.isSafeInteger(choice.steps)) message.num_inference_steps = choice.steps;
  return message;
}

/** Build `session.interaction` with a new prompt. */
export function promptMessage(eventId, prompt) {
  return { type: "session.interaction", interaction: { event_id: eventId, event: { prompt } } };
}

/** Build `playback.ack`. */
export function ackMessage(frame, bufferedMs, hidden) {
  const message = { type: "playback.ack", frame, buffered_ms: Math.max(0, Math.round(bufferedMs)) };
  if (hidden) message.hidden = true;
  return message;
}

/** Decode base64 into bytes. */
export function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/**
 * Cut a chunk's binary message into its access units or images.
 *
 * @param {{first_frame: number, units: {size: number, keyframe: boolean}[]}} metadata
 * @param {ArrayBuffer} buffer
 * @returns {{frame: number, keyframe: boolean, data: Uint8Array}[]}
 */
export function splitUnits(metadata, buffer) {
  const total = metadata.units.reduce((sum, unit) => sum + unit.size, 0);
  if (total !== buffer.byteLength) {
    throw new ProtocolError(`units of ${total} bytes in a message of ${buffer.byteLength}`);
  }
  let at = 0;
  return metadata.units.map((unit, index) => {
    const data = new Uint8Array(buffer, at, unit.size);
    at += unit.size;
    return { frame: metadata.first_frame + index, keyframe: unit.keyframe, data };
  });
}

/**
 * One stream as its viewer sees it: fed with messages, it says what happened.
 *
 * `receive` returns a list of events, each an object with a `type`:
 * `queued {position}`, `started {config, format, resumed}`, `chunk {metadata, buffer}`,
 * `receipt {status, eventId, …}`, `paused`, `pong`, `done {reason, chunks, frames}`,
 * `error {code, message, eventId, param, retryable, fatal}`.
 */
export class Session {
  constructor() {
    this.state = "idle";
    this.id = null;
    this.token = null;
    this.format = null;
    this.config = null;
    this.lastChunk = -1;
    this.epoch = 0;
    this.awaiting = null;
  }

  /** Whether a lost connection can be taken up again. */
  get canResume() {
    return this.state === "live" && this.token !== null;
  }

  /** Note that `session.start` was sent. */
  starting() {
    this.state = "starting";
  }

  /** Build `session.resume`; a half-received chunk is forgotten and comes again. */
  resumeMessage() {
    if (!this.canResume) throw new ProtocolError("there is no stream to resume");
    this.awaiting = null;
    return {
      type: "session.resume",
      session_id: this.id,
      resume_token: this.token,
      after_chunk: this.lastChunk,
      format: this.format,
    };
  }

  /**
   * Take in one message.
   *
   * @param {string|ArrayBuffer} data
   * @returns {object[]}
   */
  receive(data) {
    if (typeof data !== "string") return this.#binary(data);
    if (this.awaiting) {
      throw new ProtocolError(`text came where chunk ${this.awaiting.chunk_index} was announced`);
    }
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      throw new ProtocolError(`not JSON: ${data.slice(0, 80)}`);
    }
    return this.#text(message);
  }

  #binary(buffer) {
    const metadata = this.awaiting;
    if (!metadata) throw new ProtocolError(`${buffer.byteLength} bytes came unannounced`);
    this.awaiting = null;
    if (metadata.bytes !== undefined && metadata.bytes !== buffer.byteLength) {
      throw new ProtocolError(`${metadata.bytes} bytes announced, ${buffer.byteLength} came`);
    }
    this.lastChunk = metadata.chunk_index;
    this.epoch = metadata.epoch ?? 0;
    return [{ type: "chunk", metadata, buffer }];
  }

  #text(message) {
    switch (message.type) {
      case "session.queued":
        if (this.state === "starting") this.state = "queued";
        return [{ type: "queued", position: message.position }];
      case "video.start": {
        const resumed = this.id !== null && this.id === message.session_id;
        this.state = "live";
        this.id = message.session_id;
        this.token = message.resume_token;
        this.format = message.format;
        this.config = message.config;
        return [{ type: "started", config: message.config, format: message.format, resumed }];
      }
      case "video.chunk_metadata":
        this.awaiting = message;
        return [];
      case "session.interaction.queued":
      case "session.interaction.applied":
      case "session.interaction.superseded":
        return [
          {
            type: "receipt",
            status: message.type.slice("session.interaction.".length),
            eventId: message.event_id,
            chunk: message.chunk_index,
            frame: message.first_frame,
            pts: message.pts,
          },
        ];
      case "session.paused":
        return [{ type: "paused" }];
      case "session.pong":
        return [{ type: "pong" }];
      case "session.done":
        this.state = "done";
        return [
          {
            type: "done",
            reason: message.reason,
            chunks: message.chunks,
            frames: message.frames,
          },
        ];
      case "error":
        return [this.#error(message)];
      default:
        // A newer server may say more; what we do not know we need not obey.
        return [];
    }
  }

  #error(message) {
    const fatal = Boolean(message.fatal);
    if (fatal) {
      const over = ENDED.has(message.code) || this.token === null || !message.retryable;
      if (over) this.state = "failed";
    }
    return {
      type: "error",
      code: message.code,
      message: message.message,
      eventId: message.event_id ?? null,
      param: message.param ?? null,
      retryable: Boolean(message.retryable),
      fatal,
    };
  }
}
