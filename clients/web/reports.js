// What a viewer tells the server of its own accord: credits, signs of life, wishes for keyframes.
//
// Sends through the `send` it is given and reads the clock it is given; knows no socket or player.

import { ackMessage } from "./protocol.js";

/** Presented pictures between two credits; the server's lead allows for four. */
const ACK_EVERY_FRAMES = 2;
const PING_EVERY_MS = 10_000;
const PONG_WITHIN_MS = 10_000;
const KEYFRAME_EVERY_MS = 1000;

export class Reports {
  /**
   * @param {{send: (message: object) => void, dead: () => void, now: () => number,
   *   hidden?: boolean}} parts `dead` is called when the server has not answered for too long.
   */
  constructor({ send, dead, now, hidden = false }) {
    this.send = send;
    this.dead = dead;
    this.now = now;
    this.hidden = hidden;
    this.frame = -1;
    this.ackedFrame = -1;
    this.bufferedMs = 0;
    this.keyframeWanted = false;
    this.keyframeAt = -Infinity;
    this.connected();
  }

  /** A connection was made, for the first time or again. */
  connected() {
    this.pongDue = null;
    this.pingAt = this.now() + PING_EVERY_MS;
  }

  /** Note the picture on show. */
  presented(frame, bufferedMs) {
    this.frame = frame;
    this.bufferedMs = bufferedMs;
    if (frame - this.ackedFrame >= ACK_EVERY_FRAMES) this.ack();
  }

  /** Tell how far the viewer has come; before the first picture only that nobody looks. */
  ack() {
    if (this.frame < 0 && !this.hidden) return;
    this.ackedFrame = this.frame;
    this.send(ackMessage(this.frame, this.bufferedMs, this.hidden));
  }

  /** The tab was hidden or shown. */
  setHidden(hidden) {
    this.hidden = hidden;
    this.ack();
  }

  /** Ask for a keyframe, now or as soon as it is decent to ask again. */
  keyframe() {
    this.keyframeWanted = true;
    this.#keyframe();
  }

  #keyframe() {
    if (!this.keyframeWanted || this.now() - this.keyframeAt < KEYFRAME_EVERY_MS) return;
    this.keyframeWanted = false;
    this.keyframeAt = this.now();
    this.send({ type: "session.keyframe" });
  }

  /** The server answered a ping. */
  pong() {
    this.pongDue = null;
  }

  /** To be called about once a second. */
  beat() {
    const now = this.now();
    this.ack();
    this.#keyframe();
    if (this.pongDue !== null) {
      // A hidden tab's timers are slowed down, which says nothing about the link.
      if (now <= this.pongDue || this.hidden) return;
      // Nothing has come back: a dead link is noticed here long before TCP notices.
      this.pongDue = null;
      this.dead();
    } else if (now > this.pingAt) {
      this.pingAt = now + PING_EVERY_MS;
      this.pongDue = now + PONG_WITHIN_MS;
      this.send({ type: "session.ping" });
    }
  }
}
