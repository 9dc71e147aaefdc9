// A clip on a canvas while it is drawn: its pictures by the clock, its tokens as passes accept them, and a scrubber.

import { open, readPicture } from "./api.js";

const RETRIES = 20;
const KEPT = 600; // pictures of a clip without an end that can be looked at again
const colour = (token) => `hsl(${(token * 137.508) % 360} 65% ${35 + (token % 5) * 8}%)`;

export class Viewer {
  constructor(stage, { title, tokens, onEnd, onError }) {
    Object.assign(this, { tokens, onEnd, onError, pictures: new Map(), shown: -1, retries: 0, over: false });
    this.figure = stage.appendChild(document.createElement("figure"));
    const screen = this.figure.appendChild(document.createElement("div"));
    screen.className = "screen";
    this.canvas = screen.appendChild(document.createElement("canvas"));
    this.canvas.className = "pixels";
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", title);
    this.grid = screen.appendChild(document.createElement("canvas"));
    this.grid.className = "pixels";
    this.grid.hidden = !tokens;
    this.grid.setAttribute("aria-hidden", "true");
    this.figures = this.figure.appendChild(document.createElement("figcaption"));
    this.figures.className = "told";
    this.scrubber = this.figure.appendChild(document.createElement("input"));
    Object.assign(this.scrubber, { type: "range", min: 0, max: 0, value: 0, hidden: true });
    this.scrubber.setAttribute("aria-label", `Picture of: ${title}`);
    this.scrubber.addEventListener("input", () => this.seek(Number(this.scrubber.value)));
  }

  watch(id) {
    if (this.gone) return;
    this.id = id;
    this.began = performance.now();
    this.connect();
    requestAnimationFrame(() => this.tick());
  }

  connect() {
    if (this.gone || this.over) return;
    // After a break it goes on with the first latent frame of which a picture is missing.
    const first = this.last === undefined ? 0 : this.latentOf(this.last + 1);
    this.socket = open(`/v1/videos/${this.id}/stream`, `tokens=${this.tokens}&first=${first}`);
    this.socket.onmessage = ({ data }) => {
      this.retries = 0;
      if (data instanceof ArrayBuffer) this.take(readPicture(data));
      else this.hear(JSON.parse(data));
    };
    this.socket.onclose = () => {
      if (this.over) return;
      this.retries += 1;
      if (this.retries > RETRIES) this.end("lost");
      else setTimeout(() => this.connect(), Math.min(3000, 100 * 2 ** this.retries));
    };
  }

  latentOf(picture) {
    const { first, temporal } = this.clip;
    return picture < first ? 0 : 1 + Math.floor((picture - first) / temporal);
  }

  hear(said) {
    if (said.type === "clip") {
      this.clip = said;
      Object.assign(this.canvas, { width: said.width, height: said.height });
      Object.assign(this.grid, { width: said.columns, height: said.rows });
      this.waits = said.latent_frames === null;
    } else if (said.type === "tokens") this.accept(said);
    else if (said.type === "frame") Object.assign(this, { latent: said.number, passes: said.passes, prompt: said.prompt });
    else if (said.type === "error") this.onError(said.message);
    else if (said.type === "end") this.end(said.status, said.error);
  }

  accept({ first, tokens, passes }) {
    const { order, given, columns } = this.clip;
    const size = order.length;
    const pen = this.grid.getContext("2d");
    this.passes = passes;
    tokens.forEach((token, index) => {
      const place = (first + index) % size;
      if (place === 0) pen.clearRect(0, 0, this.grid.width, this.grid.height);
      const raster = order[place] - given;
      if (raster < 0) return;
      pen.fillStyle = colour(token);
      pen.fillRect(raster % columns, Math.floor(raster / columns), 1, 1);
    });
  }

  take(picture) {
    if (!this.pictures.size) this.firstPicture = performance.now() - this.began;
    this.pictures.set(picture.number, picture.image);
    this.last = Math.max(this.last ?? 0, picture.number);
    this.first ??= picture.number; // several may come before the first one is shown
  }

  // The picture that is due is shown; where it is not there yet, the clock of the clip waits for it.
  tick() {
    if (this.gone) return;
    const now = performance.now();
    const next = this.shown < 0 ? this.first : this.shown + 1;
    const due = this.start === undefined ? now : this.start + (1000 * (next - this.first)) / this.clip.fps;
    if (this.pictures.has(next) && now >= due) {
      if (this.start === undefined || now - due > 500) this.start = now - (1000 * (next - this.first)) / this.clip.fps;
      this.draw(next);
      if (this.waits) {
        this.say({ type: "ack", frame: this.latentOf(next) });
        this.pictures.delete(next - KEPT);
        this.oldest = Math.max(this.first, next - KEPT + 1);
      }
    }
    this.tell(now);
    if (!this.over || this.shown < this.last) requestAnimationFrame(() => this.tick());
    else this.rest();
  }

  draw(number) {
    this.shown = number;
    this.canvas.getContext("2d").putImageData(this.pictures.get(number), 0, 0);
    document.body.dataset.firstPicture ??= performance.now(); // milliseconds since the page was asked for
  }

  tell(now) {
    if (!this.clip) return;
    const drawn = (this.last ?? -1) + 1;
    const seconds = ((this.ended ?? now) - this.began) / 1000;
    const tokens = Math.max(0, (this.latent ?? -1) + 1 - this.clip.given_frames) * (this.clip.order.length - this.clip.given);
    this.figures.textContent =
      `picture ${Math.max(0, this.shown) + 1}, ${drawn} drawn, ${Math.round(tokens / Math.max(seconds, 0.001))} tokens/s, ` +
      `${this.passes ?? 0} passes, first picture after ${Math.round(this.firstPicture ?? 0)} ms, seed ${this.clip.seed}`;
  }

  rest() {
    Object.assign(this.scrubber, { hidden: false, min: this.oldest ?? this.first ?? 0, max: this.last ?? 0, value: this.shown });
  }

  seek(number) {
    if (this.pictures.has(number)) this.draw(number);
    this.tell(performance.now());
  }

  say(values) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(values));
  }

  end(status, error) {
    if (this.over) return;
    Object.assign(this, { over: true, ended: performance.now() });
    this.socket.close();
    this.onEnd(status, error);
  }

  remove() {
    this.gone = this.over = true;
    this.socket?.close();
    this.figure.remove();
  }
}
