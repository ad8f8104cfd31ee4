// The worker's side of a FramePlayer: messages in, calls out, and the other way round.

import { FramePlayer } from "./frame_player.js";

let player = null;

self.onmessage = ({ data }) => {
  if (data.call === "open") {
    player = new FramePlayer({
      canvas: data.canvas,
      post: (message) => self.postMessage(message),
      now: () => performance.now(),
      nextTick: (callback) => self.requestAnimationFrame(callback),
    });
    return;
  }
  player[data.call](...data.args);
};
