// When to show which picture: a jitter buffer with a clock that stretches.
//
// Chunks come in bursts; pictures are to be shown evenly. The playhead is media time that runs
// with the wall clock, begins `delayMs` behind the first picture, and waits when there is nothing
// to show. It runs a little fast when media piles up and a little slow when the generator hardly
// keeps up. Times are milliseconds and come in as arguments; nothing here knows decoders or pages.

/** Half a 60 Hz picture: closer than this, waiting for the next tick would show it too late. */
const EARLY_MS = 8;
/** A picture later than this is a stall that a viewer can see. */
const LATE_MS = 40;
const MAX_DELAY_MS = 400;
const DELAY_GROWTH = 1.5;
const DELAY_DECAY_PER_S = 10;
const FASTEST = 1.1;
const SLOWEST = 0.92;
/** How many arrivals the lowest buffer level is remembered for. */
const MEMORY = 4;

/**
 * @typedef {{frame: number}} Item A decoded picture and its number in the stream.
 */
export class Playout {
  /**
   * @param {{fps: number, chunkFrames: number, delayMs?: number}} options
   */
  constructor({ fps, chunkFrames, delayMs = 100 }) {
    this.frameMs = 1000 / fps;
    this.chunkMs = chunkFrames * this.frameMs;
    this.minDelayMs = delayMs;
    this.delayMs = delayMs;
    this.rate = 1;
    this.stalls = 0;
    this.stalledMs = 0;
    this.stalled = false;
    this.paused = false;
    this.shown = -1;
    /** @type {Item[]} */
    this.queue = [];
    this.playheadMs = null;
    this.endMs = null;
    this.lastTickMs = null;
    this.lows = [];
  }

  /** Media received but not yet shown, in milliseconds. */
  get bufferedMs() {
    if (this.endMs === null) return 0;
    const from = this.shown >= 0 ? (this.shown + 1) * this.frameMs : this.queueStartMs;
    return Math.max(0, this.endMs - from);
  }

  get queueStartMs() {
    return this.queue.length ? this.queue[0].frame * this.frameMs : this.endMs;
  }

  /** Note that media up to (not including) picture `frame` has arrived, decoded or not. */
  arrived(frame) {
    const endMs = frame * this.frameMs;
    if (this.playheadMs !== null && this.endMs !== null && !this.paused) {
      this.lows.push(this.endMs - this.playheadMs);
      if (this.lows.length > MEMORY) this.lows.shift();
      this.rate = this.#rateFor(Math.min(...this.lows));
    }
    this.endMs = Math.max(this.endMs ?? 0, endMs);
  }

  #rateFor(lowMs) {
    const many = this.delayMs + this.chunkMs;
    if (lowMs > many) return Math.min(FASTEST, 1 + (0.16 * (lowMs - many)) / 1000);
    const few = this.minDelayMs / 2;
    if (lowMs < few) return Math.max(SLOWEST, 1 - (1 - SLOWEST) * (1 - lowMs / few));
    return 1;
  }

  /**
   * Add a decoded picture. Returns false, and keeps nothing, when it is too late to be shown.
   *
   * @param {Item} item
   */
  insert(item) {
    if (item.frame <= this.shown) return false;
    let at = this.queue.length;
    while (at > 0 && this.queue[at - 1].frame > item.frame) at--;
    if (at > 0 && this.queue[at - 1].frame === item.frame) return false;
    this.queue.splice(at, 0, item);
    return true;
  }

  /**
   * Advance to `nowMs`.
   *
   * @param {number} nowMs
   * @param {boolean} expecting Whether more media is to come; without it an empty buffer is the
   *   end and not a stall.
   * @returns {{show: Item|null, drop: Item[]}} The picture to draw, and those skipped.
   */
  tick(nowMs, expecting = true) {
    const elapsed = this.lastTickMs === null ? 0 : Math.max(0, nowMs - this.lastTickMs);
    this.lastTickMs = nowMs;
    if (this.paused) return { show: null, drop: [] };
    if (this.playheadMs === null) {
      if (!this.queue.length) return { show: null, drop: [] };
      this.playheadMs = this.queue[0].frame * this.frameMs - this.delayMs;
    } else if (this.stalled) {
      this.#waitOut(elapsed, expecting);
    } else {
      this.playheadMs += elapsed * this.rate;
      this.delayMs = Math.max(
        this.minDelayMs,
        this.delayMs - (DELAY_DECAY_PER_S * elapsed) / 1000,
      );
    }
    const due = [];
    while (this.queue.length && this.#isDue(this.queue[0])) due.push(this.queue.shift());
    const show = due.pop() ?? null;
    if (show) this.shown = show.frame;
    else if (!this.stalled && expecting) this.#noticeStall();
    return { show, drop: due };
  }

  #isDue(item) {
    return !this.stalled && item.frame * this.frameMs <= this.playheadMs + EARLY_MS;
  }

  #noticeStall() {
    const nextMs = (this.shown + 1) * this.frameMs;
    if (this.shown < 0 || this.queue.length || this.playheadMs - nextMs <= LATE_MS) return;
    this.stalled = true;
    this.stalls += 1;
    this.stalledMs += this.playheadMs - nextMs;
  }

  #waitOut(elapsed, expecting) {
    if (!this.queue.length) {
      if (expecting) this.stalledMs += elapsed;
      return;
    }
    // Waiting a little longer once buys a cushion against the next late chunk.
    const grown = Math.min(MAX_DELAY_MS, this.delayMs * DELAY_GROWTH);
    this.playheadMs = this.queue[0].frame * this.frameMs - (grown - this.delayMs);
    this.delayMs = grown;
    this.stalled = false;
  }

  /** Hold the playhead; time spent so counts neither as playing nor as a stall. */
  pause() {
    this.paused = true;
  }

  /** Go on where the playhead was held. */
  resume() {
    this.paused = false;
    this.lastTickMs = null;
    this.lows = [];
    this.rate = 1;
  }

  /** Forget everything queued; returns it so that pictures can be released. */
  clear() {
    const dropped = this.queue;
    this.queue = [];
    return dropped;
  }

  /** After a gap: forget the queue and begin again, delay included, at whatever comes next. */
  restart() {
    this.playheadMs = null;
    this.endMs = null;
    this.stalled = false;
    this.lows = [];
    this.rate = 1;
    return this.clear();
  }
}
