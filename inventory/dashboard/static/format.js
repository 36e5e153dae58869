// Numbers, sizes and times as a person reads them.

const binary = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const decimal = ["B", "kB", "MB", "GB", "TB", "PB"];

function scaled(n, by, units) {
  let i = 0;
  let f = n;
  while (f >= by && i < units.length - 1) {
    f /= by;
    i++;
  }
  const digits = i > 0 && f < 9.95 && Math.abs(f - Math.round(f)) > 0.05 ? 1 : 0;
  return `${f.toFixed(digits)}\u202f${units[i]}`;
}

// memory is a size in powers of 1024, as memory is sold.
export const memory = (bytes) => scaled(bytes, 1024, binary);

// size is a size in powers of 1000, as disks are sold.
export const size = (bytes) => scaled(bytes, 1000, decimal);

// span is a number of milliseconds with as many digits as matter.
export function span(ms) {
  if (ms < 0) return "-" + span(-ms);
  if (ms < 1000) return `${Math.round(ms)}\u202fms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(1)}\u202fs`;
  const m = Math.floor(s / 60);
  if (m < 60) return s % 60 < 1 ? `${m}\u202fmin` : `${m}\u202fmin ${pad(Math.floor(s % 60))}\u202fs`;
  const hours = Math.floor(m / 60);
  if (hours < 48) return m % 60 === 0 ? `${hours}\u202fh` : `${hours}\u202fh ${pad(m % 60)}\u202fmin`;
  return `${Math.floor(hours / 24)} days`;
}

const pad = (n) => String(n).padStart(2, "0");

// clock is the time of day here.
export function clock(text) {
  const t = new Date(text);
  return `${pad(t.getHours())}:${pad(t.getMinutes())}:${pad(t.getSeconds())}`;
}

// date is a day and minute here, year first, of a text or a number of milliseconds.
export function date(at) {
  const t = new Date(at);
  return `${t.getFullYear()}-${pad(t.getMonth() + 1)}-${pad(t.getDate())} ${pad(t.getHours())}:${pad(t.getMinutes())}`;
}

// moment is the minute of today, and of another day its date too.
export const moment = (at, now = Date.now()) => (date(at).slice(0, 10) === date(now).slice(0, 10) ? date(at).slice(11) : date(at));

// ago is how long ago something was, in one unit.
export function ago(text, now = Date.now()) {
  const s = Math.max(0, (now - Date.parse(text)) / 1000);
  if (s < 10) return "now";
  if (s < 60) return `${Math.floor(s / 10) * 10}\u202fs ago`;
  if (s < 3600) return `${Math.floor(s / 60)}\u202fmin ago`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)}\u202fh ago`;
  return `${Math.floor(s / 86400)} days ago`;
}

// amount is a fact with its unit, which the end of its name tells; undefined for
// what has none.
export function amount(path, value) {
  const name = path.at(-1);
  if (typeof value !== "number") return undefined;
  if (name.endsWith("block_bytes")) return `${value} B`;
  if (name === "bytes" || name.endsWith("_bytes")) return path.includes("memory") ? memory(value) : size(value);
  if (name.endsWith("_mhz")) return value >= 1000 ? `${trim(value / 1000)}\u202fGHz` : `${value}\u202fMHz`;
  if (name.endsWith("_mbps")) return value >= 1000 ? `${trim(value / 1000)}\u202fGb/s` : `${value}\u202fMb/s`;
  if (name.endsWith("_mts")) return `${value}\u202fMT/s`;
  return undefined;
}

const trim = (n) => String(Math.round(n * 100) / 100);

// processor is the model of a CPU without what says nothing about it.
export const processor = (model) => model?.replace(/\((R|TM|tm)\)/g, "").replace(/ CPU(?= |$)/, "").replace(/ @.*$/, "").replace(/^\d+th Gen /, "").replace(/ +/g, " ").trim();

// plural is a number with its noun.
export const plural = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// nameOf is what a machine is called.
export const nameOf = (m) => m.address || m.serial || m.macs?.[0] || m.id;
