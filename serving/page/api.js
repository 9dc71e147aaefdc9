// Requests to the server. A token in the address (#token=...) is kept for this tab and sent with every request.

const place = new URLSearchParams(location.hash.slice(1));
if (place.has("token")) {
  sessionStorage.setItem("token", place.get("token"));
  place.delete("token");
  history.replaceState(null, "", place.size ? `#${place}` : location.pathname);
}
const token = sessionStorage.getItem("token");

export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    throw new Error(body?.error?.message ?? `the server answered ${answer.status}`);
  }
  return answer;
}

export async function post(path, values, file) {
  if (!file) {
    const body = JSON.stringify(values);
    return (await ask(path, { method: "POST", body, headers: { "content-type": "application/json" } })).json();
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(values)) form.append(name, String(value));
  form.append("input_reference", file);
  return (await ask(path, { method: "POST", body: form })).json();
}

const secret = () => (token ? `token=${encodeURIComponent(token)}` : "");

export function open(path, query = "") {
  const all = [query, secret()].filter(Boolean).join("&");
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}?${all}`);
  socket.binaryType = "arraybuffer";
  return socket;
}

export const contentOf = (id, format) => `/v1/videos/${id}/content?${["format=" + format, secret()].filter(Boolean).join("&")}`;

// A binary message: number u32, width u16, height u16, second f64, then RGB.
export function readPicture(buffer) {
  const view = new DataView(buffer);
  const [number, width, height] = [view.getUint32(0, true), view.getUint16(4, true), view.getUint16(6, true)];
  const image = new ImageData(width, height);
  const pixels = new Uint8Array(buffer, 16);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    image.data[to] = pixels[from];
    image.data[to + 1] = pixels[from + 1];
    image.data[to + 2] = pixels[from + 2];
    image.data[to + 3] = 255;
  }
  return { number, second: view.getFloat64(8, true), image };
}
