import { Playout } from "../../../clients/web/playout.js";
import { equal, near, ok, test } from "./harness.js";

const FPS = 16;
const FRAME_MS = 1000 / FPS;

/**
 * Play chunks that arrive at given times on a 60 Hz screen.
 *
 * @param {{at: number, first: number, count: number}[]} chunks
 */
function play(chunks, { untilMs, playout = new Playout({ fps: FPS, chunkFrames: 12 }) } = {}) {
  const shown = [];
  const dropped = [];
  const waiting = [...chunks];
  for (let now = 0; now <= untilMs; now += 1000 / 60) {
    while (waiting.length && waiting[0].at <= now) {
      const { first, count } = waiting.shift();
      playout.arrived(first + count);
      for (let i = 0; i < count; i++) playout.insert({ frame: first + i });
    }
    const { show, drop } = playout.tick(now, true);
    if (show) shown.push({ frame: show.frame, at: now });
    dropped.push(...drop);
  }
  return { playout, shown, dropped };
}

/** Chunks of 12, each arriving when the one before has been playing for `everyMs`. */
function steady(count, everyMs, jitter = () => 0) {
  return Array.from({ length: count }, (_, k) => ({
    at: k * everyMs + jitter(k),
    first: 12 * k,
    count: 12,
  }));
}

test("the first picture waits for the delay, then pictures come evenly", () => {
  const { shown, playout, dropped } = play(steady(8, 750), { untilMs: 5000 });
  near(shown[0].at, 100, 18);
  equal(shown.map(({ frame }) => frame), [...Array(shown.length).keys()]);
  for (let i = 1; i < shown.length; i++) near(shown[i].at - shown[i - 1].at, FRAME_MS, 21);
  equal([playout.stalls, dropped.length], [0, 0]);
});

test("bursts that jitter by less than the delay cause no stall", () => {
  const wobble = (k) => (k ? [60, -60, 30, -20][k % 4] : 0);
  const { playout, shown } = play(steady(20, 750, wobble), { untilMs: 14000 });
  equal(playout.stalls, 0);
  ok(shown.length > 200);
});

test("a late chunk is one stall, and buys a longer delay", () => {
  const chunks = [...steady(2, 750), { at: 2500, first: 24, count: 12 }];
  const { playout, shown } = play(chunks, { untilMs: 3200 });
  equal(playout.stalls, 1);
  near(playout.delayMs, 150, 20);
  // Frame 24 was due at 1600 and is shown soon after it came.
  const late = shown.find(({ frame }) => frame === 24);
  ok(late.at >= 2500 && late.at < 2620, `shown at ${late.at}`);
  ok(playout.stalledMs > 800 && playout.stalledMs < 1100, `stalled ${playout.stalledMs}`);
});

test("after a stall pictures go on evenly, none is skipped", () => {
  const chunks = [...steady(2, 750), ...steady(3, 750).map((c) => ({ ...c, at: c.at + 2500, first: c.first + 24 }))];
  const { shown, dropped } = play(chunks, { untilMs: 5000 });
  equal(shown.map(({ frame }) => frame), [...Array(60).keys()]);
  equal(dropped.length, 0);
});

test("media that piles up is played a little faster", () => {
  const { playout } = play(steady(10, 300), { untilMs: 2800 });
  ok(playout.rate > 1.02 && playout.rate <= 1.1, `rate ${playout.rate}`);
});

test("a generator that hardly keeps up is played a little slower", () => {
  const { playout } = play(steady(10, 840), { untilMs: 7000 });
  ok(playout.rate < 1 && playout.rate >= 0.92, `rate ${playout.rate}`);
});

test("a slower generator costs fewer stalls than chunks", () => {
  const { playout } = play(steady(20, 790), { untilMs: 15500 });
  ok(playout.stalls < 10, `${playout.stalls} stalls`);
});

test("pictures out of order are sorted, doubles and late ones refused", () => {
  const playout = new Playout({ fps: FPS, chunkFrames: 12 });
  ok(playout.insert({ frame: 2 }));
  ok(playout.insert({ frame: 0 }));
  ok(playout.insert({ frame: 1 }));
  ok(!playout.insert({ frame: 1 }));
  equal(playout.queue.map(({ frame }) => frame), [0, 1, 2]);
  playout.tick(0);
  playout.tick(100 + FRAME_MS);
  equal(playout.shown, 1);
  ok(!playout.insert({ frame: 1 }));
});

test("after a long gap between ticks only the newest due picture is drawn", () => {
  const { playout } = play(steady(1, 750), { untilMs: 100 });
  const { show, drop } = playout.tick(100 + 5 * FRAME_MS);
  ok(drop.length >= 3);
  ok(show.frame > drop[drop.length - 1].frame);
});

test("a pause counts as nothing and play goes on where it was", () => {
  const { playout } = play(steady(2, 700), { untilMs: 800 });
  const before = playout.shown;
  playout.pause();
  equal(playout.tick(5000).show, null);
  playout.resume();
  playout.tick(20_000);
  const { show } = playout.tick(20_000 + FRAME_MS);
  equal([show.frame, playout.stalls], [before + 1, 0]);
});

test("an empty buffer at the end of a stream is no stall", () => {
  const playout = new Playout({ fps: FPS, chunkFrames: 12 });
  playout.arrived(1);
  playout.insert({ frame: 0 });
  for (let now = 0; now < 3000; now += 16) playout.tick(now, false);
  equal([playout.shown, playout.stalls, playout.stalledMs], [0, 0, 0]);
});

test("a stream that begins late in its life begins with its first picture", () => {
  const { shown } = play([{ at: 0, first: 1200, count: 12 }], { untilMs: 500 });
  equal(shown[0].frame, 1200);
});

test("after a gap it begins again with the delay", () => {
  const { playout } = play(steady(2, 700), { untilMs: 800 });
  playout.restart();
  playout.arrived(512);
  playout.insert({ frame: 500 });
  equal(playout.tick(1000).show, null);
  equal(playout.tick(1000 + playout.delayMs).show.frame, 500);
  equal(playout.stalls, 0);
});

test("what is buffered counts from the picture on show", () => {
  const playout = new Playout({ fps: FPS, chunkFrames: 12 });
  equal(playout.bufferedMs, 0);
  playout.arrived(12);
  playout.insert({ frame: 0 });
  near(playout.bufferedMs, 750, 0.01);
  playout.tick(0);
  playout.tick(100);
  near(playout.bufferedMs, 11 * FRAME_MS, 0.01);
});

test("the delay never exceeds its limit and decays while all is well", () => {
  const playout = new Playout({ fps: FPS, chunkFrames: 12 });
  let frame = 0;
  let now = 0;
  for (let stall = 0; stall < 8; stall++) {
    playout.arrived(frame + 1);
    playout.insert({ frame });
    for (let i = 0; i < 60; i++) playout.tick((now += 16));
    frame += 1;
  }
  equal(playout.delayMs <= 400, true);
  const before = playout.delayMs;
  playout.arrived(frame + 60);
  for (let i = 0; i < 60; i++) playout.insert({ frame: frame + i });
  for (let i = 0; i < 60; i++) playout.tick((now += 16));
  ok(playout.delayMs < before, `${playout.delayMs} after ${before}`);
});
