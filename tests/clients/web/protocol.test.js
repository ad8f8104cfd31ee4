import {
  ProtocolError,
  Session,
  ackMessage,
  fromBase64,
  promptMessage,
  splitUnits,
  startMessage,
} from "../../../clients/web/protocol.js";
import { equal, ok, test, throws } from "./harness.js";

const CONFIG = { model: "m", width: 160, height: 96, fps: 16, seed: 3, chunk_frames: 12 };

function videoStart(more = {}) {
  return JSON.stringify({
    type: "video.start",
    request_id: "r",
    session_id: "s1",
    resume_token: "t1",
    format: "avcc",
    config: CONFIG,
    ...more,
  });
}

function metadata(index, bytes, more = {}) {
  return JSON.stringify({
    type: "video.chunk_metadata",
    epoch: 0,
    chunk_index: index,
    first_frame: 12 * index,
    bytes,
    ...more,
  });
}

function live() {
  const session = new Session();
  session.starting();
  session.receive(videoStart());
  return session;
}

test("a start leaves out what was not chosen", () => {
  equal(startMessage({ prompt: "p", format: "avcc", codec: "h264", seed: null, steps: null }), {
    type: "session.start",
    prompt: "p",
    format: "avcc",
    codec: "h264",
  });
});

test("a start carries every choice, seed 0 too", () => {
  const message = startMessage({
    prompt: "p",
    format: "jpeg",
    model: "m",
    seed: 0,
    steps: 2,
    width: 160,
    height: 96,
  });
  equal([message.seed, message.num_inference_steps, message.model, message.width], [0, 2, "m", 160]);
});

test("a prompt change is an interaction with its own id", () => {
  equal(promptMessage("e1", "night"), {
    type: "session.interaction",
    interaction: { event_id: "e1", event: { prompt: "night" } },
  });
});

test("an ack says hidden only when it is", () => {
  equal(ackMessage(7, 12.6, false), { type: "playback.ack", frame: 7, buffered_ms: 13 });
  equal(ackMessage(7, -3, true), {
    type: "playback.ack",
    frame: 7,
    buffered_ms: 0,
    hidden: true,
  });
});

test("base64 becomes bytes", () => {
  equal([...fromBase64("AP8Q")], [0, 255, 16]);
});

test("a chunk is cut into its units, numbered from its first frame", () => {
  const buffer = new Uint8Array([1, 2, 3, 4, 5, 6]).buffer;
  const units = splitUnits(
    { first_frame: 21, units: [{ size: 4, keyframe: true }, { size: 2, keyframe: false }] },
    buffer,
  );
  equal(
    units.map(({ frame, keyframe, data }) => [frame, keyframe, [...data]]),
    [
      [21, true, [1, 2, 3, 4]],
      [22, false, [5, 6]],
    ],
  );
});

test("units that do not add up are refused", () => {
  throws(
    () => splitUnits({ first_frame: 0, units: [{ size: 4, keyframe: true }] }, new ArrayBuffer(5)),
    /units of 4 bytes in a message of 5/,
  );
});

test("a session goes from starting through queued to live", () => {
  const session = new Session();
  equal(session.state, "idle");
  session.starting();
  equal(session.receive('{"type":"session.queued","position":3}'), [{ type: "queued", position: 3 }]);
  equal(session.state, "queued");
  const [started] = session.receive(videoStart());
  equal([started.type, started.resumed, session.state], ["started", false, "live"]);
});

test("metadata and binary together are one chunk", () => {
  const session = live();
  equal(session.receive(metadata(0, 3)), []);
  const buffer = new ArrayBuffer(3);
  const [chunk] = session.receive(buffer);
  ok(chunk.type === "chunk" && chunk.buffer === buffer && chunk.metadata.chunk_index === 0);
  equal(session.lastChunk, 0);
});

test("bytes unannounced, bytes of another length and text between are refused", () => {
  throws(() => live().receive(new ArrayBuffer(3)), /3 bytes came unannounced/);
  const wrong = live();
  wrong.receive(metadata(0, 4));
  throws(() => wrong.receive(new ArrayBuffer(3)), /4 bytes announced, 3 came/);
  const between = live();
  between.receive(metadata(5, 4));
  throws(() => between.receive('{"type":"session.pong"}'), /chunk 5 was announced/);
  throws(() => live().receive("{"), /not JSON/);
});

test("protocol errors are told apart from others", () => {
  try {
    live().receive("{");
  } catch (error) {
    ok(error instanceof ProtocolError);
  }
});

test("an unknown message is ignored", () => {
  equal(live().receive('{"type":"session.forked"}'), []);
});

test("receipts keep their event and where it takes effect", () => {
  const session = live();
  equal(session.receive('{"type":"session.interaction.queued","event_id":"e"}')[0].status, "queued");
  const [applied] = session.receive(
    '{"type":"session.interaction.applied","event_id":"e","chunk_index":4,"first_frame":45,"pts":2.8125}',
  );
  equal(
    [applied.type, applied.status, applied.eventId, applied.chunk, applied.frame, applied.pts],
    ["receipt", "applied", "e", 4, 45, 2.8125],
  );
});

test("a resume names the last whole chunk and the newest token", () => {
  const session = live();
  session.receive(metadata(0, 1));
  session.receive(new ArrayBuffer(1));
  session.receive(metadata(1, 1));
  equal(session.resumeMessage(), {
    type: "session.resume",
    session_id: "s1",
    resume_token: "t1",
    after_chunk: 0,
    format: "avcc",
  });
  const [again] = session.receive(videoStart({ resume_token: "t2" }));
  ok(again.resumed);
  equal(session.resumeMessage().resume_token, "t2");
});

test("what never began cannot be resumed", () => {
  throws(() => new Session().resumeMessage(), /no stream to resume/);
});

test("after a fatal error that cannot be retried there is nothing to resume", () => {
  const session = live();
  const [error] = session.receive(
    '{"type":"error","code":"stream_failed","message":"x","retryable":false,"fatal":true}',
  );
  ok(error.fatal);
  equal([session.state, session.canResume], ["failed", false]);
});

test("a gateway that shuts down leaves a stream that can be resumed", () => {
  const session = live();
  session.receive(
    '{"type":"error","code":"shutting_down","message":"x","retryable":true,"fatal":true}',
  );
  ok(session.canResume);
});

test("a refusal that is not fatal leaves the stream alone", () => {
  const session = live();
  const [error] = session.receive(
    '{"type":"error","code":"invalid_value","message":"x","event_id":"e","param":"prompt"}',
  );
  equal([error.eventId, error.param, error.fatal, session.state], ["e", "prompt", false, "live"]);
});

test("done ends it", () => {
  const session = live();
  const [done] = session.receive('{"type":"session.done","reason":"completed","chunks":2,"frames":21}');
  equal([done.frames, session.state, session.canResume], [21, "done", false]);
});
