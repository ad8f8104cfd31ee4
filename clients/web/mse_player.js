// Plays fMP4 fragments through a <video>: for browsers, or addresses, without WebCodecs.
//
// The browser keeps the clock; this keeps it near the newest picture without running dry. Posts
// the same messages as FramePlayer.

/** Start, and go on after a gap, with so much media in hand. */
const START_MS = 150;
/** Media kept behind the picture on show. */
const KEEP_BEHIND_S = 10;
/** More than a chunk and this in hand: play a little faster. */
const CHASE_MS = 600;

/** The class of media source this browser has, if any. */
export function mediaSourceClass(scope = globalThis) {
  return scope.ManagedMediaSource ?? scope.MediaSource ?? null;
}

/** A MIME type with its container, whatever the server left out. */
export function containerMime(mime) {
  return mime.startsWith("video/") ? mime : `video/mp4; codecs="${mime}"`;
}

export class MsePlayer {
  /**
   * @param {{video: HTMLVideoElement, post: (message: object) => void}} parts
   */
  constructor({ video, post }) {
    this.video = video;
    this.post = post;
    this.queue = [];
    this.revisions = [];
    this.stalls = 0;
    this.stalledMs = 0;
    this.stallBegan = null;
    this.frame = -1;
    this.started = false;
    this.paused = false;
    this.finishing = false;
    this.closed = false;
    video.muted = true;
    video.playsInline = true;
    // iPhones only give a ManagedMediaSource to a video that cannot be cast away.
    video.disableRemotePlayback = true;
    this.onWaiting = () => this.#stall();
    this.onPlaying = () => this.#unstall();
    video.addEventListener("waiting", this.onWaiting);
    video.addEventListener("playing", this.onPlaying);
  }

  configure({ config, continued }) {
    this.finishing = false;
    this.config = config;
    if (continued && this.buffer) return;
    const Source = mediaSourceClass();
    this.source = new Source();
    // A left-over srcObject makes `src` stay silent for ever.
    this.video.srcObject = null;
    this.url = URL.createObjectURL(this.source);
    this.video.src = this.url;
    this.source.addEventListener("sourceopen", () => this.#open(), { once: true });
    this.#watch();
  }

  #open() {
    try {
      this.buffer = this.source.addSourceBuffer(containerMime(this.config.mime));
      this.source.duration = Infinity;
    } catch (error) {
      this.post({ type: "failed", message: error.message });
      return;
    }
    this.buffer.addEventListener("updateend", () => this.#append());
    this.buffer.addEventListener("error", () => {
      this.post({ type: "failed", message: "the browser could not read the video" });
    });
    this.#append();
  }

  /** Take in one chunk's bytes. */
  push(metadata, data) {
    this.revisions.push({ frame: metadata.first_frame, promptRev: metadata.prompt_rev });
    this.queue.push(data);
    this.#append();
  }

  #append() {
    if (!this.buffer || this.buffer.updating || this.closed || this.video.error) return;
    const behind = this.video.currentTime - KEEP_BEHIND_S;
    const { buffered } = this.buffer;
    if (buffered.length && behind - buffered.start(0) > KEEP_BEHIND_S) {
      this.buffer.remove(0, behind);
      return;
    }
    if (this.queue.length) {
      try {
        this.buffer.appendBuffer(this.queue.shift());
      } catch (error) {
        this.post({ type: "failed", message: error.message });
      }
    }
    this.#steer();
  }

  /** The range of media that holds, or comes next after, the playhead. */
  #range() {
    const { buffered } = this.video;
    // A playhead in a range's last picture has nothing more to play there.
    const now = this.video.currentTime + 1 / this.config.fps;
    for (let i = 0; i < buffered.length; i++) {
      if (buffered.end(i) > now || (i === buffered.length - 1 && buffered.end(i) > now - 0.05)) {
        return { start: buffered.start(i), end: buffered.end(i) };
      }
    }
    return null;
  }

  get bufferedMs() {
    const range = this.#range();
    if (!range) return 0;
    return Math.max(0, (range.end - Math.max(range.start, this.video.currentTime)) * 1000);
  }

  #steer() {
    const range = this.#range();
    if (!range || this.paused) return;
    if (this.video.currentTime < range.start) this.video.currentTime = range.start;
    const inHand = this.bufferedMs;
    const chunkMs = (1000 * this.config.chunk_frames) / this.config.fps;
    this.video.playbackRate = inHand > chunkMs + CHASE_MS ? 1.05 : 1;
    if (this.video.paused && (inHand >= START_MS || this.finishing)) this.#play();
  }

  #play() {
    this.video.play().catch((error) => {
      if (error.name === "NotAllowedError") this.post({ type: "blocked" });
    });
  }

  #watch() {
    const presented = (now, { mediaTime }) => {
      if (this.closed) return;
      const frame = Math.round(mediaTime * this.config.fps);
      if (frame !== this.frame) {
        this.frame = frame;
        while (this.revisions.length > 1 && this.revisions[1].frame <= frame) this.revisions.shift();
        const promptRev = this.revisions[0]?.promptRev ?? 0;
        this.#report({ type: "presented", skipped: 0, promptRev });
      }
      this.video.requestVideoFrameCallback(presented);
    };
    if (this.video.requestVideoFrameCallback) {
      this.video.requestVideoFrameCallback(presented);
    } else {
      this.video.addEventListener("timeupdate", () => presented(0, { mediaTime: this.video.currentTime }));
    }
    this.timer = setInterval(() => {
      this.#steer();
      if (this.finishing && !this.queue.length && this.bufferedMs < 1000 / this.config.fps) {
        this.finishing = false;
        this.#report({ type: "drained" });
      }
    }, 200);
  }

  #stall() {
    if (!this.started || this.paused || this.finishing || this.stallBegan !== null) return;
    this.stalls += 1;
    this.stallBegan = performance.now();
    this.#report({ type: "stalled" });
  }

  #unstall() {
    this.started = true;
    if (this.stallBegan !== null) this.stalledMs += performance.now() - this.stallBegan;
    this.stallBegan = null;
  }

  #report(message) {
    this.post({
      ...message,
      frame: this.frame,
      bufferedMs: this.bufferedMs,
      stalls: this.stalls,
      stalledMs: this.stalledMs,
      rate: this.video.playbackRate,
    });
  }

  setScale() {}

  setPaused(paused) {
    this.paused = paused;
    if (paused) this.video.pause();
    else this.#steer();
  }

  finish() {
    this.finishing = true;
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
    this.video.removeEventListener("waiting", this.onWaiting);
    this.video.removeEventListener("playing", this.onPlaying);
    // The last picture stays on show; only the source lets go of its memory.
    this.video.pause();
    if (this.url) URL.revokeObjectURL(this.url);
  }
}
