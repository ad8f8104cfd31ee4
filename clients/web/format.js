// How times, rates and refusals are put into words. Pure text; knows no page.

/** `73.4` s as `1:13`; with tenths as `1:13.4`. */
export function clock(seconds, tenths = false) {
  const whole = tenths ? Math.floor(seconds * 10) / 10 : Math.floor(seconds);
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  const rest = whole % 60;
  const padded = tenths ? rest.toFixed(1).padStart(4, "0") : String(rest).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${padded}` : `${minutes}:${padded}`;
}

/** What a receipt's status means to a viewer. */
export function receiptText({ status, frame, pts, message }) {
  switch (status) {
    case "sent":
      return "Sending";
    case "first":
      return "Waits for the first picture";
    case "queued":
      return "Queued: waits for the next chunk";
    case "applied":
      return `Takes effect at ${clock(pts, true)}, frame ${frame}`;
    case "shown":
      return `On screen since ${clock(pts, true)}, frame ${frame}`;
    case "past":
      return `From ${clock(pts, true)}, frame ${frame}`;
    case "superseded":
      return "Replaced by a newer prompt before it showed";
    case "refused":
      return message ?? "Refused";
    default:
      return status;
  }
}

const TITLES = {
  capacity: "The server is full.",
  model_not_found: "No worker serves this model.",
  invalid_value: "The server refused this request.",
  unauthorized: "The server asks for an API key.",
  forbidden_origin: "This page may not open streams on that server.",
  not_supported: "The server cannot do this yet.",
  rate_limited: "That was too fast.",
  session_not_found: "The stream is gone.",
  invalid_token: "The stream could not be taken up again.",
  taken_over: "The stream went on in another window.",
  worker_lost: "The machine making this stream was lost.",
  stream_failed: "The stream broke off.",
  fabric_unavailable: "The server has lost its own connections.",
  shutting_down: "The server is shutting down.",
  start_timeout: "The server waited too long.",
  connection: "No connection.",
  lost: "The connection was lost.",
  player: "This browser could not play the stream.",
  protocol: "The server and this page did not understand each other.",
};

/** A title for an error code; the server's own sentence follows it. */
export function problemTitle(code) {
  return TITLES[code] ?? "Something went wrong.";
}

/** Why a stream is over, for the stage. */
export function endText(reason) {
  switch (reason) {
    case "stopped":
      return "Stopped.";
    case "complete":
      return "That was the whole take.";
    default:
      return reason ? `The stream is over: ${String(reason).replaceAll("_", " ")}.` : "The stream is over.";
  }
}
