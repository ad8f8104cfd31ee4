// Plays access units or images on a canvas: decodes ahead, shows each picture when it is due.
//
// Runs in a worker with an OffscreenCanvas, or on the page with a canvas; it does not know which.
// Everything it has to say it says through `post`: `presented`, `keyframe`, `failed`, `drained`.

import { ImageUnitDecoder, VideoUnitDecoder } from "./decoders.js";
import { Playout } from "./playout.js";

/** Decoded pictures held at a time; hardware decoders have small pools. */
const MAX_DECODED = 8;
/** A decoder that is full and silent for so long is one of those that hold pictures back. */
const SILENT_MS = 250;
/** Decoder faults within `FAULT_WINDOW_MS` after which another way of playing is needed. */
const MAX_FAULTS = 3;
const FAULT_WINDOW_MS = 15_000;

export class FramePlayer {
  /**
   * @param {{canvas: HTMLCanvasElement|OffscreenCanvas, post: (message: object) => void,
   *   now: () => number, nextTick: (callback: (now: number) => void) => number}} parts
   */
  constructor({ canvas, post, now, nextTick }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false, desynchronized: true });
    this.post = post;
    this.now = now;
    this.nextTick = nextTick;
    this.decoder = null;
    this.playout = null;
    this.scale = 1;
    this.encoded = [];
    this.revisions = [];
    this.needKey = true;
    this.nextFrame = null;
    this.finishing = false;
    this.closed = false;
    this.faults = [];
    this.lastOutputMs = 0;
    this.ticking = false;
  }

  /** Prepare for a stream, or for its continuation after a reconnect. */
  configure({ config, format, continued }) {
    this.finishing = false;
    const same =
      continued && ["fps", "mime", "init", "width"].every((key) => this.config?.[key] === config[key]);
    this.config = config;
    // A stream that goes on where it was lost needs no new decoder; `push` notices if it does not.
    if (same && this.decoder) return;
    this.#release(this.playout?.clear() ?? []);
    this.playout = new Playout({ fps: config.fps, chunkFrames: config.chunk_frames });
    this.nextFrame = null;
    this.revisions = [];
    this.encoded = [];
    this.needKey = true;
    this.decoder?.close();
    const kind = format === "jpeg" ? ImageUnitDecoder : VideoUnitDecoder;
    this.decoder = new kind(
      (picture) => this.#decoded(picture),
      (error) => this.#fault(error),
    );
    this.#size();
    try {
      this.decoder.configure(config);
    } catch (error) {
      this.#fault(error);
    }
    if (!this.ticking) this.#loop();
  }

  /** Draw at `scale` pixels for each of the stream's, so that enlarging is done well. */
  setScale(scale) {
    this.scale = Math.max(1, Math.min(6, Math.round(scale)));
    if (this.config) this.#size();
  }

  #size() {
    const width = this.config.width * this.scale;
    const height = this.config.height * this.scale;
    if (this.canvas.width === width && this.canvas.height === height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.context.imageSmoothingEnabled = true;
    this.context.imageSmoothingQuality = "high";
    if (this.last) this.#draw(this.last);
  }

  /** Take in one chunk's units (see `splitUnits`) and the revision of its prompt. */
  push(units, promptRev) {
    if (!units.length) return;
    const first = units[0].frame;
    const gap = this.nextFrame !== null && first > this.nextFrame;
    const again = this.nextFrame !== null && first < this.nextFrame;
    if ((gap || again) && !this.needKey) {
      // The decoder's references do not fit these units; only a keyframe can follow.
      this.needKey = true;
      this.encoded = [];
      this.decoder.reset();
    }
    if (this.needKey && !units[0].keyframe) {
      this.post({ type: "keyframe" });
      return;
    }
    if (gap) this.#release(this.playout.restart());
    this.needKey = false;
    this.nextFrame = units[units.length - 1].frame + 1;
    this.playout.arrived(this.nextFrame);
    this.revisions.push({ frame: first, promptRev });
    this.encoded.push(...units);
    this.#feed();
  }

  #feed() {
    while (
      this.encoded.length &&
      this.decoder.pending + this.playout.queue.length < MAX_DECODED &&
      !this.closed
    ) {
      if (this.decoder.pending === 0) this.lastOutputMs = this.now();
      const unit = this.encoded.shift();
      try {
        this.decoder.decode(unit);
      } catch (error) {
        this.#fault(error);
        return;
      }
    }
  }

  #decoded(picture) {
    this.lastOutputMs = this.now();
    if (!this.playout.insert(picture)) picture.image.close();
  }

  #fault(error) {
    const now = this.now();
    this.faults = this.faults.filter((at) => now - at < FAULT_WINDOW_MS);
    this.faults.push(now);
    this.encoded = [];
    this.needKey = true;
    if (this.faults.length >= MAX_FAULTS) {
      this.post({ type: "failed", message: String(error?.message ?? error) });
      return;
    }
    // A browser may reclaim a decoder at any time; a new one needs a keyframe.
    try {
      this.decoder.reset();
      this.post({ type: "keyframe" });
    } catch (again) {
      this.post({ type: "failed", message: String(again?.message ?? again) });
    }
  }

  #loop() {
    this.ticking = true;
    const step = () => {
      if (this.closed) return;
      this.tick(this.now());
      this.nextTick(step);
    };
    this.nextTick(step);
  }

  /** Show what is due at `nowMs`. */
  tick(nowMs) {
    if (!this.playout) return;
    const expecting = !this.finishing || this.encoded.length > 0 || this.decoder.pending > 0;
    const stallsBefore = this.playout.stalls;
    const { show, drop } = this.playout.tick(nowMs, expecting);
    this.#release(drop);
    if (show) this.#present(show, drop.length);
    else if (this.playout.stalls > stallsBefore) this.#report({ type: "stalled" });
    this.#feed();
    if (
      this.decoder.pending >= MAX_DECODED &&
      !this.playout.paused &&
      nowMs - this.lastOutputMs > SILENT_MS
    ) {
      this.lastOutputMs = nowMs;
      this.needKey = true;
      this.encoded = [];
      this.decoder.reset({ software: true });
      this.post({ type: "keyframe" });
    }
    if (this.finishing && !expecting && this.playout.queue.length === 0) {
      this.finishing = false;
      this.#report({ type: "drained" });
    }
  }

  #present(picture, skipped) {
    this.#draw(picture.image);
    if (this.last) this.last.close();
    this.last = picture.image;
    while (this.revisions.length > 1 && this.revisions[1].frame <= picture.frame) {
      this.revisions.shift();
    }
    this.#report({ type: "presented", skipped, promptRev: this.revisions[0]?.promptRev ?? 0 });
  }

  #draw(image) {
    // Coded pictures of odd sizes carry a spare line; the stream's own size says what to show.
    const { width, height } = this.config;
    this.context.drawImage(image, 0, 0, width, height, 0, 0, this.canvas.width, this.canvas.height);
  }

  #report(message) {
    const { playout } = this;
    this.post({
      ...message,
      frame: playout.shown,
      bufferedMs: playout.bufferedMs,
      stalls: playout.stalls,
      stalledMs: playout.stalledMs,
      rate: playout.rate,
    });
  }

  setPaused(paused) {
    if (!this.playout || this.playout.paused === paused) return;
    if (paused) this.playout.pause();
    else this.playout.resume();
  }

  /** Nothing more comes: play out what is there, then say `drained`. */
  finish() {
    this.finishing = true;
  }

  close() {
    this.closed = true;
    this.decoder?.close();
    if (this.playout) this.#release(this.playout.clear());
    this.last?.close();
    this.last = null;
  }

  #release(pictures) {
    for (const picture of pictures) picture.image.close();
  }
}
