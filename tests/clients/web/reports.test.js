import { Reports } from "../../../clients/web/reports.js";
import { equal, test } from "./harness.js";

function make(options = {}) {
  const world = { now: 0, sent: [], deaths: 0 };
  world.reports = new Reports({
    send: (message) => world.sent.push(message),
    dead: () => (world.deaths += 1),
    now: () => world.now,
    ...options,
  });
  world.kinds = () => world.sent.map(({ type }) => type);
  return world;
}

test("every second picture is acknowledged", () => {
  const { reports, sent } = make();
  for (let frame = 0; frame < 7; frame++) reports.presented(frame, 100);
  equal(sent.map(({ frame }) => frame), [1, 3, 5]);
});

test("a skip is acknowledged at once", () => {
  const { reports, sent } = make();
  reports.presented(9, 250.4);
  equal(sent, [{ type: "playback.ack", frame: 9, buffered_ms: 250 }]);
});

test("before the first picture nothing is acknowledged, unless nobody looks", () => {
  const world = make();
  world.reports.beat();
  equal(world.sent, []);
  world.reports.setHidden(true);
  equal(world.sent, [{ type: "playback.ack", frame: -1, buffered_ms: 0, hidden: true }]);
});

test("a beat repeats the last credit", () => {
  const world = make();
  world.reports.presented(2, 0);
  world.reports.beat();
  equal(world.sent.map(({ frame }) => frame), [2, 2]);
});

test("a keyframe asked for too soon is asked for later, once", () => {
  const world = make();
  world.reports.keyframe();
  world.now = 300;
  world.reports.keyframe();
  world.reports.keyframe();
  equal(world.kinds(), ["session.keyframe"]);
  world.now = 1100;
  world.reports.beat();
  world.now = 3000;
  world.reports.beat();
  equal(world.kinds(), ["session.keyframe", "session.keyframe"]);
});

test("a link without an answer to a ping is dead", () => {
  const world = make();
  world.now = 10_001;
  world.reports.beat();
  equal(world.kinds(), ["session.ping"]);
  world.now = 19_000;
  world.reports.beat();
  equal(world.deaths, 0);
  world.now = 21_000;
  world.reports.beat();
  equal(world.deaths, 1);
});

test("an answer keeps the link alive, and so does a new connection", () => {
  const world = make();
  world.now = 10_001;
  world.reports.beat();
  world.reports.pong();
  world.now = 20_500;
  world.reports.beat();
  equal(world.kinds(), ["session.ping", "session.ping"]);
  world.reports.connected();
  world.now = 30_000;
  world.reports.beat();
  equal(world.deaths, 0);
});

test("a hidden tab's slow timers do not count as silence", () => {
  const world = make({ hidden: true });
  world.now = 10_001;
  world.reports.beat();
  world.now = 90_000;
  world.reports.beat();
  equal(world.deaths, 0);
});
