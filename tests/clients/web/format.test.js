import { clock, endText, problemTitle, receiptText } from "../../../clients/web/format.js";
import { equal, ok, test } from "./harness.js";

test("times read like a player's clock", () => {
  equal(
    [clock(0), clock(9.99), clock(73), clock(3671), clock(73.46, true), clock(9.96, true)],
    ["0:00", "0:09", "1:13", "1:01:11", "1:13.4", "0:09.9"],
  );
});

test("a receipt says when it takes effect and when it shows", () => {
  equal(receiptText({ status: "applied", frame: 198, pts: 12.375 }), "Takes effect at 0:12.3, frame 198");
  equal(receiptText({ status: "shown", frame: 198, pts: 12.375 }), "On screen since 0:12.3, frame 198");
});

test("every server error has a title, unknown ones too", () => {
  ok(problemTitle("capacity").endsWith("."));
  ok(problemTitle("something_new").endsWith("."));
});

test("the end is told in words", () => {
  equal(endText("stopped"), "Stopped.");
  equal(endText("complete"), "That was the whole take.");
  equal(endText("worker_lost"), "The stream is over: worker lost.");
  equal(endText(undefined), "The stream is over.");
});
