// A player for a stage: puts the right element into the page and drives it.
//
// Frames and images go to a canvas, in a worker where the browser lets a canvas go there; fMP4
// goes to a <video>. One Player plays one stream.

import { FramePlayer } from "./frame_player.js";
import { MsePlayer } from "./mse_player.js";
import { splitUnits } from "./protocol.js";

export class Player {
  /**
   * @param {HTMLElement} stage Gets the canvas or video as a child.
   * @param {(message: object) => void} post Called with `presented`, `stalled`, `keyframe`,
   *   `failed`, `blocked` and `drained`.
   */
  constructor(stage, post) {
    this.stage = stage;
    this.post = post;
    this.format = null;
    this.element = null;
    this.call = null;
    this.worker = null;
  }

  /** Begin a stream, or go on with it after a reconnect. */
  configure({ config, format, resumed }) {
    const continued = resumed && format === this.format;
    if (!continued) this.#build(format);
    this.config = config;
    this.call("configure", { config, format, continued });
    if (!continued) this.#fit();
  }

  #build(format) {
    this.close();
    this.format = format;
    const element = document.createElement(format === "m4s" ? "video" : "canvas");
    element.className = "picture";
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", "The video being generated");
    this.element?.remove();
    this.stage.append(element);
    this.element = element;
    const post = (message) => {
      if (this.element === element) this.post(message);
    };
    if (format === "m4s") this.#direct(new MsePlayer({ video: element, post }));
    else if (element.transferControlToOffscreen && globalThis.Worker) this.#inWorker(element, post);
    else this.#onPage(element, post);
    this.resize = new ResizeObserver(() => this.#fit());
    this.resize.observe(element);
  }

  #direct(player) {
    this.inner = player;
    this.call = (name, ...args) => player[name](...args);
  }

  #onPage(canvas, post) {
    const now = () => performance.now();
    const nextTick = (callback) => requestAnimationFrame(callback);
    this.#direct(new FramePlayer({ canvas, post, now, nextTick }));
  }

  #inWorker(element, post) {
    const worker = new Worker(new URL("./player_worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => post(data);
    worker.onerror = (event) => post({ type: "failed", message: event.message ?? "worker failed" });
    const canvas = element.transferControlToOffscreen();
    worker.postMessage({ call: "open", canvas }, [canvas]);
    this.worker = worker;
    this.call = (name, ...args) => {
      // The units are views of one buffer; moving it spares a copy.
      const transfer = name === "push" ? [args[0][0].data.buffer] : [];
      worker.postMessage({ call: name, args }, transfer);
    };
  }

  #fit() {
    if (!this.config || !this.element) return;
    const pixels = this.element.clientWidth * (globalThis.devicePixelRatio ?? 1);
    if (pixels) this.call("setScale", pixels / this.config.width);
  }

  /** Take in one chunk: its metadata and its binary message. */
  push(metadata, buffer) {
    if (this.format === "m4s") {
      this.call("push", metadata, buffer);
      return;
    }
    const units = splitUnits(metadata, buffer);
    if (units.length) this.call("push", units, metadata.prompt_rev);
  }

  setPaused(paused) {
    this.call?.("setPaused", paused);
  }

  /** Play out what is there; `drained` says when. */
  finish() {
    this.call?.("finish");
  }

  /** Let go of decoder and worker; the last picture stays on show. */
  close() {
    this.resize?.disconnect();
    const { worker } = this;
    if (this.call) this.call("close");
    // The worker needs a moment to release its pictures.
    if (worker) setTimeout(() => worker.terminate(), 500);
    this.call = null;
    this.worker = null;
    this.inner = null;
  }
}
