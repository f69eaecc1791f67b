// A session of onnxruntime-web: a question a line on the standard input, an answer a line on the standard output.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const ort = createRequire(`${process.argv[2]}/`)('onnxruntime-web');
ort.env.wasm.numThreads = 1;
ort.env.logLevel = 'fatal';
let session, feeds;

const made = {
  int64: (data) => BigInt64Array.from(data.map(BigInt)),
  float32: (data) => Float32Array.from(data),
};

async function answer(question) {
  if (question.load) {
    const options = { executionProviders: ['wasm'], logSeverityLevel: 4 };
    const start = process.cpuUsage();
    session = await ort.InferenceSession.create(readFileSync(question.load), options);
    const used = process.cpuUsage(start);
    return { seconds: (used.user + used.system) / 1e6 };
  }
  if (question.feeds) {
    const held = Object.entries(question.feeds);
    feeds = Object.fromEntries(held.map(([name, { type, dims, data }]) => [name, new ort.Tensor(type, made[type](data), dims)]));
    return {};
  }
  const start = process.cpuUsage();
  let outputs;
  for (let count = 0; count < question.run; count++) outputs = await session.run(feeds);
  const used = process.cpuUsage(start);
  const seconds = (used.user + used.system) / 1e6 / question.run;
  if (question.run > 1) return { seconds };
  const read = Object.entries(outputs).map(([name, { dims, data }]) => [name, { dims, data: Array.from(data, Number) }]);
  return { seconds, outputs: Object.fromEntries(read) };
}

for await (const line of createInterface({ input: process.stdin })) {
  const found = await answer(JSON.parse(line)).catch((error) => ({ error: String(error.message ?? error).slice(0, 400) }));
  process.stdout.write(`${JSON.stringify(found)}\n`);
}
