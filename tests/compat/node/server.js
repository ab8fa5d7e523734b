'use strict';
/**
 * The region under test: the one that ISTHMUS_ENDPOINT and its fellows name, else an
 * `isthmus up --regions 1` of our own, which ends with the suite.
 */

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');

const START_MS = 60000;
const STOP_MS = 20000;

function free(port) {
  return new Promise((resolve) => {
    const probe = net.createServer();
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}

async function basePort() {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const base = 11000 + 100 * Math.floor(Math.random() * 200);
    const ports = Array.from({ length: 30 }, (_, index) => base + index);
    if ((await Promise.all(ports.map(free))).every(Boolean)) return base;
  }
  throw new Error('no block of free ports');
}

function firstLine(child) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('`up` did not say that it serves')), START_MS);
    readline.createInterface({ input: child.stdout }).once('line', (line) => {
      clearTimeout(timer);
      resolve(JSON.parse(line));
    });
    child.once('exit', (code) => {
      clearTimeout(timer);
      reject(new Error(`\`up\` ended with ${code}`));
    });
    child.once('error', reject);
  });
}

async function start() {
  if (process.env.ISTHMUS_ENDPOINT) {
    return {
      endpoint: process.env.ISTHMUS_ENDPOINT,
      instance: process.env.ISTHMUS_INSTANCE,
      keyId: process.env.ISTHMUS_ACCESS_KEY_ID,
      secret: process.env.ISTHMUS_ACCESS_KEY_SECRET,
      stop: async () => {},
    };
  }
  const root = path.resolve(__dirname, '../../..');
  const program = process.env.ISTHMUS_BIN || path.join(root, 'target/release/isthmus');
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'isthmus-'));
  const child = spawn(program, [
    'up', '--json', '--regions', '1', '--base-port', String(await basePort()),
    '--data', path.join(folder, 'data'),
  ], { stdio: ['ignore', 'pipe', 'ignore'], detached: true });
  const endGroup = () => {
    try { process.kill(-child.pid, 'SIGKILL'); } catch { /* it has gone already */ }
  };
  process.once('exit', endGroup);
  const stop = async () => {
    const gone = child.exitCode === null
      ? new Promise((resolve) => { child.once('exit', resolve); }) : Promise.resolve();
    child.kill('SIGTERM');
    let timer;
    await Promise.race([gone, new Promise((resolve) => { timer = setTimeout(resolve, STOP_MS); })]);
    clearTimeout(timer);
    endGroup();
    fs.rmSync(folder, { recursive: true, force: true });
  };
  try {
    const told = await firstLine(child);
    return {
      endpoint: told.regions[0].endpoint,
      instance: told.instance,
      keyId: told.access_key_id,
      secret: told.access_key_secret,
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

module.exports = { start };
