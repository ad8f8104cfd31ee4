import { negotiate } from "../../../clients/web/negotiate.js";
import { containerMime } from "../../../clients/web/mse_player.js";
import { codecString, decoderConfig } from "../../../clients/web/decoders.js";
import { equal, ok, test } from "./harness.js";

const decoder = (...codecs) => ({
  isConfigSupported: async ({ codec }) => ({ supported: codecs.some((c) => codec.startsWith(c)) }),
});
const source = (answer) => ({ isTypeSupported: () => answer });

test("WebCodecs with H.264 comes first", async () => {
  const scope = { VideoDecoder: decoder("avc1", "vp8"), MediaSource: source(true) };
  equal(await negotiate(scope), { format: "avcc", codec: "h264" });
});

test("WebCodecs without H.264 takes VP8", async () => {
  equal(await negotiate({ VideoDecoder: decoder("vp8") }), { format: "avcc", codec: "vp8" });
});

test("without WebCodecs fMP4, without that JPEG", async () => {
  equal(await negotiate({ MediaSource: source(true) }), { format: "m4s", codec: "h264" });
  equal(await negotiate({ ManagedMediaSource: source(true) }), { format: "m4s", codec: "h264" });
  equal(await negotiate({ MediaSource: source(false) }), { format: "jpeg", codec: null });
  equal(await negotiate({}), { format: "jpeg", codec: null });
});

test("a decoder that throws is one that cannot", async () => {
  const VideoDecoder = {
    isConfigSupported: async () => {
      throw new TypeError("no");
    },
  };
  equal((await negotiate({ VideoDecoder })).format, "jpeg");
});

test("what failed is not tried again, what was asked for is taken", async () => {
  const scope = { VideoDecoder: decoder("avc1"), MediaSource: source(true) };
  equal((await negotiate(scope, { without: new Set(["avcc"]) })).format, "m4s");
  equal((await negotiate(scope, { without: new Set(["avcc", "m4s"]) })).format, "jpeg");
  equal(await negotiate(scope, { format: "jpeg" }), { format: "jpeg", codec: null });
});

test("codec strings are found in MIME types and put into them", () => {
  equal(codecString('video/mp4; codecs="avc1.64000a"'), "avc1.64000a");
  equal(codecString("vp8"), "vp8");
  equal(containerMime("avc1.64000a"), 'video/mp4; codecs="avc1.64000a"');
  equal(containerMime('video/mp4; codecs="x"'), 'video/mp4; codecs="x"');
});

test("a decoder is told its description only where there is one", () => {
  const config = decoderConfig({ mime: "avc1.64000a", init: "AQI=" });
  equal([...config.description], [1, 2]);
  ok(config.optimizeForLatency);
  equal("description" in decoderConfig({ mime: "vp8" }), false);
  equal(decoderConfig({ mime: "vp8" }, true).hardwareAcceleration, "prefer-software");
});
