// Which way of playing this browser has, best first.

import { containerMime, mediaSourceClass } from "./mse_player.js";

/** Asked before the server has said which profile it encodes; all of ours decode where this does. */
const H264 = "avc1.64001e";

async function decodes(scope, codec) {
  try {
    return (await scope.VideoDecoder.isConfigSupported({ codec })).supported === true;
  } catch {
    return false;
  }
}

/**
 * Choose `{format, codec}` for `session.start`.
 *
 * @param {{VideoDecoder?: object, MediaSource?: object}} scope Usually `globalThis`. WebCodecs
 *   exists on https and localhost only.
 * @param {{format?: string|null, codec?: string|null, without?: Set<string>}} wish A format asked
 *   for by hand, or formats that were tried and failed.
 */
export async function negotiate(scope = globalThis, { format, codec, without } = {}) {
  if (format) return { format, codec: codec ?? null };
  if (scope.VideoDecoder && !without?.has("avcc")) {
    if (await decodes(scope, H264)) return { format: "avcc", codec: "h264" };
    if (await decodes(scope, "vp8")) return { format: "avcc", codec: "vp8" };
  }
  const Source = mediaSourceClass(scope);
  if (Source?.isTypeSupported(containerMime(H264)) && !without?.has("m4s")) {
    return { format: "m4s", codec: "h264" };
  }
  return { format: "jpeg", codec: null };
}
