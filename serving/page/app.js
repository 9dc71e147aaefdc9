// The page: a form for a clip, the clips while they are drawn, a world to play, and what was made.

import { ask, contentOf, post } from "./api.js";
import { Play } from "./play.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const EXAMPLES = {
  world: ["a red ball rolls to the right over grass", "a blue ring spins at night", "a yellow star rises over sand, the camera zooms in"],
  halls: ["halls of many rooms, the way is free", "a maze of grey walls, a wall ahead", "a yard with green walls, the way is free, a medkit in sight"],
  run: ["a coin run at night on grass, the player on a ledge", "a blue cave at night, the rabbit on the ground"],
};
const TRIES = 20; // to get the list of clips, a second apart
let models = [];
let viewers = [];
let playing = null;
let source = null; // a file, or { id, frames } of a clip of this server
let held; // the keys of a link to a play

function tell(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
  if (message) setTimeout(() => $("error").textContent === message && tell(""), 8000);
}

const model = () => models.find(({ id }) => id === $("model").value);
const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));

function settings(second) {
  const end = second ? "2" : "";
  const decoder = $(`decoder${end}`).value;
  return {
    guidance_scale: number(`guidance${end}`), temperature: number(`temperature${end}`),
    decoder: decoder === "auto" ? undefined : decoder,
  };
}

function asked(second) {
  const endless = $("endless").checked;
  const values = {
    model: source?.id ? undefined : model().id, live: true, seed: number("seed"), prompt: $("prompt").value.trim() || undefined,
    seconds: endless || held ? undefined : number("seconds"), endless: endless || undefined, keys: held, ...settings(second),
  };
  if (source?.id && source.frames) values.frames = source.frames;
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}

async function make(event) {
  event?.preventDefault();
  tell("");
  $("go").disabled = true;
  try {
    await makeAll();
  } catch (error) {
    tell(error.message);
  }
  $("go").disabled = false;
  busy(viewers.some(({ over }) => !over));
}

async function makeAll() {
  if (!$("seed").value && $("compare").checked) $("seed").value = Math.floor(Math.random() * 2 ** 31);
  for (const viewer of viewers) viewer.remove();
  viewers = [];
  const path = source?.id ? `/v1/videos/${source.id}/extend` : "/v1/videos";
  for (const second of $("compare").checked ? [false, true] : [false]) {
    const job = await post(path, asked(second), source instanceof File ? source : null);
    const viewer = new Viewer($("stage"), {
      title: $("prompt").value || "a clip", tokens: $("tokens").checked, onError: tell, onEnd: ended,
    });
    viewers.push(viewer);
    viewer.watch(job.id);
  }
}

function busy(now) {
  $("stop").disabled = $("turn").disabled = !now;
}

function ended(status, error) {
  if (status === "failed") tell(error ?? "the clip could not be drawn");
  if (status === "lost") tell("the server does not answer");
  if (viewers.every(({ over }) => over)) busy(false);
  list();
}

function begin(from, told) {
  source = from;
  $("forget").hidden = from === null;
  $("forget").textContent = from === null ? "" : `Begin without ${told}`;
  if (from === null) $("file").value = "";
}

function element(name, values = {}, ...children) {
  const made = Object.assign(document.createElement(name), values);
  made.append(...children);
  return made;
}

// A clip is fetched when it comes into sight: all of them at once would take the machine from what is drawn.
const seen = new IntersectionObserver((changes) => changes.forEach(({ target, isIntersecting }) => {
  if (!isIntersecting) return;
  target.preload = "auto";
  seen.unobserve(target);
}));

function entry(job) {
  const item = element("li");
  item.dataset.key = `${job.id} ${job.status}`;
  if (job.status === "completed") {
    const [width, height] = (job.size ?? "16x9").split("x");
    const video = element("video", { src: contentOf(job.id, "mp4"), controls: true, loop: true, muted: true, preload: "none", width, height });
    seen.observe(video);
    item.append(video);
  }
  const text = Array.isArray(job.prompt) ? job.prompt.map(([, each]) => each).join(", then ") : job.prompt ?? (job.continues ? "continued" : "without a prompt");
  item.append(element("p", { textContent: text }));
  const used = Object.entries(job.options).map(([name, value]) => (name === "keys" ? "played" : `${name.replaceAll("_", " ")} ${value}`));
  item.append(element("p", { className: "told", textContent: [job.status, ...(job.seconds ? [`${job.seconds} s`] : []), ...used].join(", ") }));
  const row = item.appendChild(element("p", { className: "row" }));
  if (job.status === "completed") {
    const video = item.querySelector("video");
    row.append(
      button("Continue", () => { begin({ id: job.id }, "this clip"); make(); }),
      button("From here", () => {
        const frames = Math.max(1, Math.round(video.currentTime * job.fps) + 1);
        begin({ id: job.id, frames: Math.min(frames, job.num_frames) }, `picture ${frames}`);
        $("prompt").focus();
      }),
      ...["mp4", "gif", "session"].map((form) => element("a", { href: contentOf(job.id, form), textContent: form, download: "" })),
    );
  }
  if (job.status === "completed" && !Array.isArray(job.prompt) && !job.continues && !job.endless) row.append(element("a", { href: linkTo(job), textContent: "the same again" }));
  row.append(button("Delete", async () => { await ask(`/v1/videos/${job.id}`, { method: "DELETE" }); list(); }));
  return item;
}

function button(text, act) {
  const made = element("button", { type: "button", textContent: text });
  made.addEventListener("click", () => Promise.resolve(act()).catch((error) => tell(error.message)));
  return made;
}

function linkTo({ model: name, prompt, options }) {
  const { seed, seconds, guidance_scale: guidance, temperature, decoder, keys } = options;
  const values = Object.entries({ model: name, prompt: prompt ?? "", seed, seconds, guidance, temperature, decoder, keys });
  return `#${new URLSearchParams(values.filter(([, value]) => value !== undefined))}`;
}

function followLink() {
  const values = new URLSearchParams(location.hash.slice(1));
  if (!values.has("prompt")) return;
  if (models.some(({ id }) => id === values.get("model"))) $("model").value = values.get("model");
  choose();
  for (const name of ["prompt", "seed", "seconds", "guidance", "temperature", "decoder"]) {
    $(name).value = values.get(name) ?? $(name).defaultValue ?? "auto";
  }
  $("endless").checked = $("compare").checked = false;
  begin(null);
  held = values.get("keys") ?? undefined;
  make().finally(() => { held = undefined; });
}

// Where nobody answers, the server may come back.
async function list(tries = TRIES) {
  try {
    const { data } = await (await ask("/v1/videos?limit=30")).json();
    const known = new Map([...$("gallery").children].map((item) => [item.dataset.key, item]));
    $("gallery").replaceChildren(...data.map((job) => known.get(`${job.id} ${job.status}`) ?? entry(job)));
  } catch (error) {
    tell(error.message);
    if (error instanceof TypeError && tries > 0) setTimeout(() => list(tries - 1), 1000);
  }
}

function choose() {
  const chosen = model();
  const tries = EXAMPLES[chosen.id] ?? [];
  $("examples").replaceChildren(...tries.map((value) => element("option", { value })));
  $("tries").replaceChildren(...tries.map((text) => button(text, () => { $("prompt").value = text; begin(null); return make(); })));
  $("words").textContent = chosen.words.join(" ");
  $("guidance").placeholder = $("guidance2").placeholder = `its own, ${chosen.guidance_scale}`;
  $("temperature").placeholder = $("temperature2").placeholder = `its own, ${chosen.temperature}`;
  $("play").hidden = !chosen.keys.length;
  $("keys").textContent = chosen.keys.join(" ");
}

function play() {
  playing = new Play({
    canvas: $("world"), latency: $("latency"), pads: $("pads"), keys: model().keys, onError: tell,
    onEnd: (id) => { $("begin").disabled = false; $("leave").disabled = true; if (id) kept(id).catch((error) => tell(error.message)); },
  });
  $("begin").disabled = true;
  $("leave").disabled = false;
  const values = { model: model().id, prompt: $("prompt").value.trim() || undefined, seed: number("seed"), temperature: number("temperature") };
  playing.begin(values);
  $("begin").blur();
}

async function kept(id) {
  let status = "queued";
  while (["queued", "in_progress"].includes(status)) {
    await new Promise((done) => setTimeout(done, 300));
    ({ status } = await (await ask(`/v1/videos/${id}`)).json());
  }
  list();
}

function dropped(event) {
  event.preventDefault();
  $("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) begin(file, file.name);
}

$("make").addEventListener("submit", make);
$("stop").addEventListener("click", () => viewers.forEach((viewer) => viewer.say({ type: "stop" })));
$("turn").addEventListener("click", () => viewers.forEach((viewer) => viewer.say({ type: "prompt", prompt: $("prompt").value })));
$("forget").addEventListener("click", () => begin(null));
$("file").addEventListener("change", () => $("file").files[0] && begin($("file").files[0], $("file").files[0].name));
$("compare").addEventListener("change", () => { $("second").hidden = !$("compare").checked; });
$("endless").addEventListener("change", () => { $("seconds").disabled = $("endless").checked; });
$("model").addEventListener("change", choose);
$("begin").addEventListener("click", play);
$("leave").addEventListener("click", () => playing?.stop());
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", dropped);
addEventListener("hashchange", followLink);

try {
  models = (await (await ask("/v1/models")).json()).data;
  $("model").replaceChildren(...models.map(({ id }) => element("option", { value: id, textContent: id })));
  choose();
  $("state").textContent = "ready";
  followLink();
  await list();
} catch (error) {
  $("state").textContent = "no connection";
  tell(error.message);
}
