// The list of prompts and their receipts, newest first.

import { receiptText } from "./format.js";

export class Takes {
  /**
   * @param {HTMLOListElement} list
   * @param {HTMLElement} empty Shown while there is none.
   */
  constructor(list, empty) {
    this.list = list;
    this.empty = empty;
    this.byId = new Map();
    this.current = null;
  }

  clear() {
    this.list.replaceChildren();
    this.byId.clear();
    this.current = null;
    this.empty.hidden = false;
  }

  /** Add a prompt that was sent as event `eventId`. */
  add(eventId, words, receipt = { status: "sent" }) {
    const item = document.createElement("li");
    item.className = "take";
    const text = document.createElement("span");
    text.className = "words";
    text.textContent = words;
    const status = document.createElement("span");
    status.className = "status";
    item.append(text, status);
    this.list.prepend(item);
    this.empty.hidden = true;
    this.byId.set(eventId, { item, status, receipt });
    this.update({ ...receipt, eventId });
  }

  statusOf(eventId) {
    return this.byId.get(eventId)?.receipt.status;
  }

  /** Take in a receipt. */
  update(receipt) {
    const take = this.byId.get(receipt.eventId);
    if (!take) return;
    take.receipt = { ...take.receipt, ...receipt };
    take.item.dataset.status = receipt.status;
    take.status.textContent = receiptText(take.receipt);
    if (receipt.status !== "shown") return;
    if (this.current !== take) this.finish();
    this.current = take;
    take.item.classList.add("now");
  }

  /** Nothing is on screen any more. */
  finish() {
    if (!this.current) return;
    this.current.item.classList.remove("now");
    this.current.status.textContent = receiptText({ ...this.current.receipt, status: "past" });
    this.current = null;
  }
}
