// A world that is played: held keys go to the server, pictures come back by its clock.

import { open, readPicture } from "./api.js";

const SOONEST = 0.75; // of the time between two pictures
const MOST_COMING = 4; // pictures
const ARROWS = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" };

export class Play {
  constructor({ canvas, latency, pads, keys, onEnd, onError }) {
    Object.assign(this, { canvas, latency, keys, onEnd, onError, held: new Set(), sent: 0, waiting: new Map(), delays: [], coming: [] });
    pads.replaceChildren(...keys.map((key) => this.pad(key)));
    this.down = (event) => this.press(event, true);
    this.up = (event) => this.press(event, false);
    this.release = () => this.hold(() => this.held.clear());
    this.hidden = () => document.hidden && this.release();
  }

  begin(values) {
    addEventListener("keydown", this.down);
    addEventListener("keyup", this.up);
    addEventListener("blur", this.release);
    document.addEventListener("visibilitychange", this.hidden);
    this.socket = open("/v1/play");
    this.socket.onopen = () => this.socket.send(JSON.stringify({ type: "start", ...values }));
    this.socket.onmessage = ({ data }) => (data instanceof ArrayBuffer ? this.arrive(readPicture(data)) : this.hear(JSON.parse(data)));
    this.socket.onclose = () => this.end();
  }

  pad(key) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: key });
    button.setAttribute("aria-label", `hold ${key}`);
    const hold = (down) => () => this.hold(() => (down ? this.held.add(key) : this.held.delete(key)));
    button.addEventListener("pointerdown", hold(true));
    // With a keyboard, or what stands for one, a pad is held while it is pressed.
    button.addEventListener("keydown", (event) => ["Enter", " "].includes(event.key) && hold(true)());
    for (const name of ["keyup", "blur"]) button.addEventListener(name, hold(false));
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) button.addEventListener(name, hold(false));
    return button;
  }

  press(event, down) {
    const key = ARROWS[event.key] ?? (event.key === " " ? "jump" : event.key.toLowerCase());
    if (!this.keys.includes(key)) return;
    if (down && (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey)) return;
    event.preventDefault();
    if (!event.repeat) this.hold(() => (down ? this.held.add(key) : this.held.delete(key)));
  }

  hold(change) {
    const before = [...this.held].sort().join();
    change();
    if (before === [...this.held].sort().join() || this.socket?.readyState !== WebSocket.OPEN) return;
    this.sent += 1;
    this.waiting.set(this.sent, { at: performance.now() });
    this.socket.send(JSON.stringify({ type: "keys", held: [...this.held], id: this.sent }));
  }

  hear(said) {
    if (said.type === "ready") Object.assign(this.canvas, { width: said.width, height: said.height });
    else if (said.type === "receipt" && this.waiting.has(said.id)) this.waiting.get(said.id).picture = said.picture;
    else if (said.type === "error") this.onError(said.message);
    else if (said.type === "end") this.end(said.id, said.error);
  }

  arrive(picture) {
    this.coming.push(picture);
    if (this.coming.length > MOST_COMING) Object.assign(this, { coming: [picture], last: undefined }); // after a break
    this.pace();
  }

  // What comes in time is shown at once; pictures that come in a burst are spread by their times.
  pace() {
    clearTimeout(this.timer);
    if (!this.coming.length || this.over) return;
    const wait = this.last ? this.last.at + SOONEST * 1000 * (this.coming[0].second - this.last.second) - performance.now() : 0;
    if (wait > 0) {
      this.timer = setTimeout(() => this.pace(), wait);
      return;
    }
    this.last = { at: performance.now(), second: this.coming[0].second };
    this.show(this.coming.shift());
    this.pace();
  }

  show({ number, image }) {
    this.canvas.getContext("2d").putImageData(image, 0, 0);
    const now = performance.now();
    this.times = [...(this.times ?? []).filter((time) => now - time < 2000), now];
    requestAnimationFrame(() => {
      for (const [id, { at, picture }] of this.waiting) {
        if (picture === undefined || picture > number) continue;
        this.delays = [...this.delays.slice(-99), performance.now() - at];
        this.waiting.delete(id);
      }
      const sorted = [...this.delays].sort((a, b) => a - b);
      const delay = sorted.length ? `, key to picture ${Math.round(sorted[Math.floor(sorted.length / 2)])} ms` : "";
      this.latency.dataset.slow = sorted[Math.floor(sorted.length * 0.95)] ?? "";
      this.latency.textContent = `${(this.times.length / 2).toFixed(1)} pictures a second${delay}`;
    });
  }

  stop() {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "stop" }));
    else this.end();
  }

  end(id, error) {
    if (this.over) return;
    this.over = true;
    removeEventListener("keydown", this.down);
    removeEventListener("keyup", this.up);
    removeEventListener("blur", this.release);
    document.removeEventListener("visibilitychange", this.hidden);
    this.socket.close();
    if (error) this.onError(error);
    this.onEnd(id);
  }
}
