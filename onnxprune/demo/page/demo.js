import * as ort from "./ort.wasm.min.mjs";

const THREADS = 4; // more do not help networks of this size
const ROUNDS = 30;
const BUDGET = 1000; // ms that measuring a run may take
const BEST = 5; // classes that are listed
const MOST_CLASSES = 100000;
const BRUSH = 11; // of the picture's shorter side, one part in so many
const DRAWING = 280; // pixels of the canvas's shorter side

const byId = (id) => document.getElementById(id);
const arraysOf = {
  float16: Uint16Array, float32: Float32Array, float64: Float64Array, int8: Int8Array, uint8: Uint8Array,
  int16: Int16Array, uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array,
  uint64: BigUint64Array, bool: Uint8Array,
};
const state = { facts: null, sample: null, feeds: {}, models: {}, drawn: null };

ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(THREADS, navigator.hardwareConcurrency || 1) : 1;

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
}

function say(text, bad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", bad);
}

function failed(error) {
  say(`This did not work: ${error.message ?? error}`, true);
}

// Models ------------------------------------------------------------------------------------------

const opened = (bytes) => ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });

async function load(name, file) {
  const bytes = new Uint8Array(await fetched(file));
  state.models[name] = { session: await opened(bytes), bytes };
}

function feeds() {
  const made = {};
  for (const input of state.facts.inputs) {
    made[input.name] = new ort.Tensor(input.type, state.feeds[input.name], input.shape);
  }
  return made;
}

// The first session waits for WebAssembly: how long a model takes to load tells one that is opened afterwards.
async function measured(model) {
  const given = feeds();
  const opening = performance.now();
  const again = await opened(model.bytes);
  model.load = performance.now() - opening;
  await again.release();
  const times = [];
  const start = performance.now();
  while (times.length < ROUNDS && (times.length < 3 || performance.now() - start < BUDGET)) {
    const begin = performance.now();
    model.outputs = await model.session.run(given);
    times.push(performance.now() - begin);
  }
  times.sort((a, b) => a - b);
  model.run = times[Math.floor(times.length / 2)];
}

let asked = false;
let busy = false;

// The model runs on what is there now; what changes meanwhile is answered when it is done.
async function answer() {
  asked = true;
  if (busy) return;
  busy = true;
  try {
    while (asked) {
      asked = false;
      const given = feeds();
      for (const model of Object.values(state.models)) model.outputs = await model.session.run(given);
      showOutputs();
    }
  } catch (error) {
    failed(error);
  } finally {
    busy = false;
  }
}

// Numbers -----------------------------------------------------------------------------------------

const group = new Intl.NumberFormat("en");
const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`);
const milliseconds = (value) => (value < 10 ? value.toFixed(2) : value.toFixed(0)) + " ms";
const short = (value) => (Number.isInteger(value) ? group.format(value) : Number(value.toPrecision(4)).toString());

function half(bits) { // the number of a float16
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

function halved(value) { // the float16 of a number, to nearest
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0];
  const sign = (bits >>> 16) & 0x8000;
  const size = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  if (size < 2 ** -14) return sign | Math.round(size * 2 ** 24);
  return sign + ((((bits & 0x7fffffff) - (112 << 23)) + 0xfff + ((bits >>> 13) & 1)) >>> 13);
}

function numbers(tensor) {
  const found = Array.from(tensor.data, Number);
  return tensor.type === "float16" && tensor.data instanceof Uint16Array ? found.map(half) : found;
}

// Outputs -----------------------------------------------------------------------------------------

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function classes(tensor, values) {
  const last = tensor.dims.at(-1);
  return tensor.dims.length && last > 1 && last === values.length && last <= MOST_CLASSES;
}

function best(values) {
  const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a]).slice(0, BEST);
  const low = Math.min(...values.slice(0, 1000), ...order.map((i) => values[i]));
  const span = values[order[0]] - low || 1;
  const list = element("ol");
  for (const index of order) {
    const item = element("li");
    const meter = element("meter");
    meter.value = (values[index] - low) / span;
    meter.ariaLabel = `class ${index}`;
    item.append(element("b", String(index)), meter, element("span", short(values[index])));
    list.append(item);
  }
  return list;
}

function summary(tensor, values) {
  const finite = values.filter(Number.isFinite);
  let [low, high, sum] = [Infinity, -Infinity, 0];
  for (const value of finite) {
    low = Math.min(low, value);
    high = Math.max(high, value);
    sum += value;
  }
  const text = values.slice(0, 6).map(short).join(", ") + (values.length > 6 ? ", …" : "");
  const mean = finite.length ? `; from ${short(low)} to ${short(high)}, mean ${short(sum / finite.length)}` : "";
  return element("p", text + (values.length > 6 ? mean : ""));
}

function showOutputs() {
  const { model } = state.models;
  const place = byId("outputs");
  place.replaceChildren();
  for (const name of model.session.outputNames) {
    const tensor = model.outputs[name];
    place.append(element("p", `${name}: ${tensor.type}[${tensor.dims.join(", ")}]`, "dim"));
    if (tensor.type === "string") {
      place.append(element("p", tensor.data.slice(0, 6).join(", ")));
      continue;
    }
    const values = numbers(tensor);
    place.append(classes(tensor, values) ? best(values) : summary(tensor, values));
  }
  byId("answer").hidden = false;
  showDifference();
}

function showDifference() {
  const { model, original } = state.models;
  if (!original?.outputs) return;
  const parts = [];
  for (const name of model.session.outputNames) {
    if (model.outputs[name].type === "string") continue;
    const [here, there] = [numbers(model.outputs[name]), numbers(original.outputs[name])];
    let [off, energy] = [0, 0];
    here.forEach((value, i) => {
      off += (value - there[i]) ** 2;
      energy += there[i] ** 2;
    });
    const best = (values) => values.reduce((top, value, i) => (value > values[top] ? i : top), 0);
    const same = classes(model.outputs[name], here) ? (best(here) === best(there) ? ", the same class" : ", another class") : "";
    parts.push(`${name} differs by ${((100 * Math.sqrt(off)) / Math.sqrt(energy || 1)).toFixed(2)} %${same}`);
  }
  byId("difference").textContent = `From the original on this input: ${parts.join("; ")}.`;
}

function showMeasures() {
  const rows = [["this model", state.models.model], ["original", state.models.original]].filter(([, model]) => model);
  byId("rows").replaceChildren(...rows.map(([title, model]) => {
    const row = element("tr");
    row.append(element("td", title));
    for (const text of [size(model.bytes.length), milliseconds(model.load), milliseconds(model.run)]) {
      row.append(element("td", text, "number"));
    }
    return row;
  }));
  if (rows.length > 1) {
    const [a, b] = rows.map(([, model]) => model);
    const row = element("tr");
    row.append(element("td", "ratio"));
    const ratios = [b.bytes.length / a.bytes.length, b.load / a.load, b.run / a.run];
    for (const ratio of ratios) row.append(element("td", `${ratio.toFixed(2)}x`, "number"));
    byId("rows").append(row);
  }
  const threads = ort.env.wasm.numThreads;
  byId("environment").textContent =
    `onnxruntime-web ${state.facts.runtime}, WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}; ` +
    `load without the download; a run is the median of at most ${ROUNDS}; ratio: the original over this model.`;
  byId("measures").hidden = false;
}

async function compare() {
  byId("compare").disabled = true;
  try {
    say("Loading the original.");
    await load("original", "original.onnx");
    for (const model of Object.values(state.models)) await measured(model);
    showOutputs();
    showMeasures();
    byId("compare").hidden = true;
    say("Both models answer.");
  } catch (error) {
    byId("compare").disabled = false;
    failed(error);
  }
}

// Inputs ------------------------------------------------------------------------------------------

function fromSample(input) {
  const size = input.shape.reduce((a, b) => a * b, 1);
  return new arraysOf[input.type](state.sample, input.start, size).slice();
}

function stored(input, value) {
  if (input.type === "float16") return halved(value);
  if (input.type === "int64" || input.type === "uint64") return BigInt(Math.round(value));
  return input.type.startsWith("float") ? value : Math.round(value);
}

// Where pixel (x, y) of a channel lies: axes are those of the shape, channels at `axis`, then height and width.
function placeOf(picture, channel, y, x) {
  const { channels, height, width } = picture;
  const last = picture.last ?? false;
  return last ? (y * width + x) * channels + channel : (channel * height + y) * width + x;
}

class Drawing {
  constructor(input) {
    this.input = input;
    this.picture = { ...input.picture, last: input.picture.axis === input.shape.length - 1 };
    this.canvas = byId("canvas");
    const zoom = DRAWING / Math.min(this.picture.height, this.picture.width);
    this.canvas.width = Math.round(this.picture.width * zoom);
    this.canvas.height = Math.round(this.picture.height * zoom);
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.small = new OffscreenCanvas(this.picture.width, this.picture.height).getContext("2d", { willReadFrequently: true });
    this.small.imageSmoothingQuality = "high";
    this.canvas.addEventListener("pointerdown", (event) => this.start(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["dragover", "drop"]) this.canvas.addEventListener(name, (event) => event.preventDefault());
    this.canvas.addEventListener("drop", (event) => this.take(event.dataTransfer.files[0]));
    byId("picture").addEventListener("change", (event) => this.take(event.target.files[0]));
    byId("clear").addEventListener("click", () => this.clear());
    byId("sample").addEventListener("click", () => this.show());
    byId("hint").textContent = `Draw, or drop a picture: ${this.picture.width} x ${this.picture.height} pixels, ` +
      `${this.picture.channels === 1 ? "grey" : "colour"}, black is ${short(this.picture.low)} and white ${short(this.picture.high)}.`;
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * this.canvas.width) / box.width,
      ((event.clientY - box.top) * this.canvas.height) / box.height,
    ];
  }

  start(event) {
    this.canvas.setPointerCapture(event.pointerId);
    if (!state.drawn) this.blacken();
    state.drawn = true;
    this.last = this.at(event);
    this.line(this.last);
  }

  move(event) {
    if (event.buttons & 1 && this.last) this.line(this.at(event));
  }

  line(to) {
    this.pen.strokeStyle = "#fff";
    this.pen.lineCap = "round";
    this.pen.lineWidth = Math.min(this.canvas.width, this.canvas.height) / BRUSH;
    this.pen.beginPath();
    this.pen.moveTo(...this.last);
    this.pen.lineTo(...to);
    this.pen.stroke();
    this.last = to;
    this.read();
  }

  blacken() {
    this.pen.fillStyle = "#000";
    this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  clear() {
    state.drawn = false;
    this.blacken();
    this.read();
  }

  async take(file) {
    if (!file) return;
    try {
      const image = await createImageBitmap(file);
      const scale = Math.max(this.canvas.width / image.width, this.canvas.height / image.height);
      const [width, height] = [image.width * scale, image.height * scale];
      this.pen.drawImage(image, (this.canvas.width - width) / 2, (this.canvas.height - height) / 2, width, height);
      state.drawn = true;
      this.read();
    } catch (error) {
      failed(error);
    }
  }

  read() { // from the canvas into the input
    const { picture, input } = this;
    this.small.drawImage(this.canvas, 0, 0, picture.width, picture.height);
    const { data } = this.small.getImageData(0, 0, picture.width, picture.height);
    const values = state.feeds[input.name];
    for (let y = 0; y < picture.height; y++) {
      for (let x = 0; x < picture.width; x++) {
        const pixel = 4 * (y * picture.width + x);
        const grey = (data[pixel] + data[pixel + 1] + data[pixel + 2]) / 3;
        for (let channel = 0; channel < picture.channels; channel++) {
          const light = (picture.channels === 1 ? grey : data[pixel + channel]) / 255;
          values[placeOf(picture, channel, y, x)] = stored(input, picture.low + light * (picture.high - picture.low));
        }
      }
    }
    answer();
  }

  show() { // the sample
    const { picture, input } = this;
    const values = fromSample(input);
    const image = this.small.createImageData(picture.width, picture.height);
    for (let y = 0; y < picture.height; y++) {
      for (let x = 0; x < picture.width; x++) {
        const pixel = 4 * (y * picture.width + x);
        for (let channel = 0; channel < 3; channel++) {
          const value = values[placeOf(picture, channel % picture.channels, y, x)];
          const light = ((input.type === "float16" ? half(value) : Number(value)) - picture.low) / (picture.high - picture.low);
          image.data[pixel + channel] = 255 * light;
        }
        image.data[pixel + 3] = 255;
      }
    }
    this.small.putImageData(image, 0, 0);
    this.pen.drawImage(this.small.canvas, 0, 0, this.canvas.width, this.canvas.height);
    state.feeds[input.name] = values;
    state.drawn = false;
    answer();
  }
}

// A .npy file of numbers of the input's type and size.
function fromNpy(buffer, input) {
  const bytes = new Uint8Array(buffer);
  if (String.fromCharCode(...bytes.slice(1, 6)) !== "NUMPY") throw new Error("this is no .npy file");
  const view = new DataView(buffer);
  const [length, start] = bytes[6] === 1 ? [view.getUint16(8, true), 10] : [view.getUint32(8, true), 12];
  const header = new TextDecoder("latin1").decode(bytes.slice(start, start + length));
  const kinds = {
    "<f2": "float16", "<f4": "float32", "<f8": "float64", "|i1": "int8", "|u1": "uint8", "<i2": "int16", "<u2": "uint16",
    "<i4": "int32", "<u4": "uint32", "<i8": "int64", "<u8": "uint64", "|b1": "bool",
  };
  const kind = kinds[/'descr': '([^']+)'/.exec(header)?.[1]];
  if (kind !== input.type) throw new Error(`'${input.name}' takes ${input.type}, the file holds ${kind ?? "another type"}`);
  if (/'fortran_order': True/.test(header)) throw new Error("the file is in Fortran order: save a C-contiguous array");
  const values = new arraysOf[kind](buffer.slice(start + length));
  const size = input.shape.reduce((a, b) => a * b, 1);
  if (values.length !== size) throw new Error(`'${input.name}' takes [${input.shape}], the file holds ${values.length} numbers`);
  return values;
}

function arrayInput(input) {
  const place = element("div", undefined, "array");
  const label = element("label", "File (.npy)", "button");
  const file = element("input");
  file.type = "file";
  file.accept = ".npy";
  label.append(file);
  const note = element("span", " a made-up sample", "dim");
  const take = async (chosen) => {
    if (!chosen) return;
    try {
      state.feeds[input.name] = fromNpy(await chosen.arrayBuffer(), input);
      note.textContent = ` ${chosen.name}`;
      answer();
    } catch (error) {
      failed(error);
    }
  };
  file.addEventListener("change", () => take(file.files[0]));
  place.addEventListener("dragover", (event) => event.preventDefault());
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  place.append(element("p", `${input.name}: ${input.type}[${input.shape.join(", ")}]`), label, note);
  return place;
}

// ---------------------------------------------------------------------------------------------------

async function main() {
  try {
    const [facts, sample] = await Promise.all([
      fetched("demo.json").then((bytes) => JSON.parse(new TextDecoder().decode(bytes))),
      fetched("sample.bin"),
      load("model", "model.onnx"),
    ]);
    state.facts = facts;
    state.sample = sample;
    document.title = facts.title;
    byId("title").textContent = facts.title;
    const shown = facts.inputs.filter((input) => input.picture);
    for (const input of facts.inputs) {
      state.feeds[input.name] = fromSample(input);
      if (input !== shown[0]) byId("arrays").append(arrayInput(input));
    }
    byId("input").hidden = false;
    if (shown.length) {
      byId("drawing").hidden = false;
      new Drawing(shown[0]).show();
    }
    await answer();
    say(`The first answer came ${milliseconds(performance.now())} after the page was asked for.`);
    await measured(state.models.model);
    showMeasures();
    document.documentElement.dataset.ready = "yes";
  } catch (error) {
    failed(error);
  }
}

byId("compare").addEventListener("click", compare);
main();
