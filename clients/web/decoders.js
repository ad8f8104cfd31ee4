// Bytes in, pictures out, in order. Two decoders with one shape: video through WebCodecs, and
// JPEG through `createImageBitmap`. Neither knows when a picture is to be shown.
//
// A decoder has `configure(config)`, `decode({frame, keyframe, data})`, `pending` (fed but not
// yet out), `reset()` and `close()`; it calls `onPicture({frame, image})` and `onError(error)`.

import { fromBase64 } from "./protocol.js";

const BT709 = { primaries: "bt709", transfer: "bt709", matrix: "bt709", fullRange: false };

/** The codec string inside a MIME type, or the string itself when it is one already. */
export function codecString(mime) {
  const inside = /codecs="([^"]+)"/.exec(mime);
  return inside ? inside[1] : mime;
}

/** What `VideoDecoder.configure` and `isConfigSupported` are given. */
export function decoderConfig(config, preferSoftware = false) {
  const out = {
    codec: codecString(config.mime),
    optimizeForLatency: true,
    hardwareAcceleration: preferSoftware ? "prefer-software" : "no-preference",
    colorSpace: BT709,
  };
  if (config.init) out.description = fromBase64(config.init);
  return out;
}

export class VideoUnitDecoder {
  #decoder = null;
  #config = null;
  #software = false;

  constructor(onPicture, onError) {
    this.onPicture = onPicture;
    this.onError = onError;
    this.pending = 0;
  }

  configure(config) {
    this.#config = config;
    this.reset();
  }

  /** Begin afresh; the next unit must be a keyframe. */
  reset({ software = this.#software } = {}) {
    this.close();
    this.#software = software;
    const decoder = new VideoDecoder({
      output: (picture) => {
        // Output of a decoder that was replaced meanwhile belongs to nobody.
        if (decoder !== this.#decoder) return picture.close();
        this.pending -= 1;
        this.onPicture({ frame: picture.timestamp, image: picture });
      },
      error: (error) => {
        if (decoder === this.#decoder) this.onError(error);
      },
    });
    decoder.configure(decoderConfig(this.#config, software));
    this.#decoder = decoder;
  }

  decode(unit) {
    this.pending += 1;
    // Timestamps only travel through a decoder, so the picture's number serves as one.
    this.#decoder.decode(
      new EncodedVideoChunk({
        type: unit.keyframe ? "key" : "delta",
        timestamp: unit.frame,
        data: unit.data,
      }),
    );
  }

  close() {
    this.pending = 0;
    const decoder = this.#decoder;
    this.#decoder = null;
    if (decoder && decoder.state !== "closed") decoder.close();
  }
}

export class ImageUnitDecoder {
  #tail = Promise.resolve();
  #generation = 0;

  constructor(onPicture, onError) {
    this.onPicture = onPicture;
    this.onError = onError;
    this.pending = 0;
  }

  configure() {
    this.reset();
  }

  reset() {
    this.#generation += 1;
    this.#tail = Promise.resolve();
    this.pending = 0;
  }

  decode(unit) {
    const generation = this.#generation;
    this.pending += 1;
    const picture = createImageBitmap(new Blob([unit.data], { type: "image/jpeg" }));
    // Bitmaps of a burst resolve in any order; each waits for the one before it.
    this.#tail = this.#tail.then(async () => {
      try {
        const image = await picture;
        if (generation !== this.#generation) return image.close();
        this.pending -= 1;
        this.onPicture({ frame: unit.frame, image });
      } catch (error) {
        if (generation === this.#generation) this.onError(error);
      }
    });
  }

  close() {
    this.reset();
  }
}
