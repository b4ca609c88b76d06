// The jailed end for JavaScript: runs in the answer's process, so what it says is taken for a value or a failure only.
'use strict';
(() => {
  const fs = require('fs');
  const vm = require('vm');
  const CHANNEL = 3, CHANNEL_LOST = 98, FILE = '<answer>';
  const MAX_DEPTH = 150, MAX_NODES = 1000000, LONGEST_TEXT = 2000;
  // Taken before the answer can change what these names mean. That would harm only its own verdict, but confusingly.
  const { parse, stringify } = JSON;
  const { isArray } = Array;
  const { getPrototypeOf, keys } = Object;
  const exit = process.reallyExit.bind(process);

  function read(size) {
    const bytes = Buffer.allocUnsafe(size);
    for (let have = 0; have < size;) {
      const count = fs.readSync(CHANNEL, bytes, have, size - have, null);
      if (count === 0) exit(CHANNEL_LOST);
      have += count;
    }
    return bytes;
  }

  function receive() {
    return parse(read(read(4).readUInt32BE(0)).toString('utf8'));
  }

  function send(message) {
    const body = Buffer.from(stringify(message), 'utf8');
    const frame = Buffer.allocUnsafe(4 + body.length);
    frame.writeUInt32BE(body.length, 0);
    body.copy(frame, 4);
    for (let sent = 0; sent < frame.length;) sent += fs.writeSync(CHANNEL, frame, sent);
  }

  class NotInert extends Error {}

  const whole = (big) => ['i', (big < 0n ? '-0x' : '0x') + (big < 0n ? -big : big).toString(16)];

  function encode(value) {
    let nodes = 0;
    const items = (tag, values, depth) => {
      const form = [tag];
      for (const item of values) {
        if (++nodes > MAX_NODES) throw new NotInert('too large a value');
        form.push(one(item, depth + 1));
      }
      return form;
    };
    const one = (item, depth) => {
      if (item === null || item === undefined) return null;
      switch (typeof item) {
        case 'string': case 'boolean': return item;
        case 'number':
          if (!Number.isFinite(item)) return ['n', { NaN: 'nan', Infinity: 'inf' }[item] ?? '-inf'];
          // Beyond 2 ** 53 the shortest text of an integer, which JSON would hold, is that of another one.
          return Number.isInteger(item) && !Number.isSafeInteger(item) ? whole(BigInt(item)) : item;
        case 'bigint': return whole(item);
        case 'object': break;
        default: throw new NotInert('a ' + typeof item);
      }
      if (depth >= MAX_DEPTH) throw new NotInert('a value nested too deeply');
      if (isArray(item)) return items('l', item, depth);
      const kind = getPrototypeOf(item);
      if (kind === Object.prototype || kind === null) return items('d', keys(item).flatMap((k) => [k, item[k]]), depth);
      if (kind === Set.prototype) return items('s', item, depth);
      if (kind === Map.prototype) return items('d', [...item].flat(), depth);
      const name = String(kind.constructor?.name ?? 'object').slice(0, 80);
      throw new NotInert((/^[aeiou]/i.test(name) ? 'an ' : 'a ') + name);
    };
    return one(value, 0);
  }

  function decode(form) {
    if (!isArray(form)) return form;
    const [tag, ...rest] = form;
    if (tag === 'i') return Number(rest[0].startsWith('-') ? -BigInt(rest[0].slice(1)) : BigInt(rest[0]));
    if (tag === 'n') return { nan: NaN, inf: Infinity, '-inf': -Infinity }[rest[0]];
    const items = rest.map(decode);
    if (tag === 's' || tag === 'f') return new Set(items);
    if (!'d di C O D'.split(' ').includes(tag)) return items;
    const object = {};
    for (let i = 0; i < items.length; i += 2) {
      // Not an assignment: a key may be called __proto__.
      Object.defineProperty(object, items[i], { value: items[i + 1], writable: true, enumerable: true, configurable: true });
    }
    return object;
  }

  // The builtin exception of Python that is most like each error; the first that fits.
  const ALIKE = [
    [RangeError, /call stack/i, 'RecursionError'],
    [RangeError, /division by zero/i, 'ZeroDivisionError'],
    [RangeError, /string length|allocation/i, 'MemoryError'],
    [RangeError, /\bindex|bounds/i, 'IndexError'],
    [RangeError, /maximum BigInt/i, 'OverflowError'],
    [RangeError, /(?:)/, 'ValueError'],
    [ReferenceError, /(?:)/, 'NameError'],
    [SyntaxError, /JSON/, 'ValueError'],
    [SyntaxError, /(?:)/, 'SyntaxError'],
    [TypeError, /(?:)/, 'TypeError'],
    [URIError, /(?:)/, 'ValueError'],
    [require('assert').AssertionError, /(?:)/, 'AssertionError'],
    [Error, /^Cannot find module/, 'ImportError'],
  ];

  function report(error) {
    const facts = { names: [], class: '', text: '', line: 0 };
    try {
      if (!(error instanceof Error)) {
        facts.text = 'threw ' + String(error).slice(0, LONGEST_TEXT);
        return facts;
      }
      facts.class = String(error.name);
      facts.text = String(error.message).slice(0, LONGEST_TEXT);
      const alike = ALIKE.find(([kind, text]) => error instanceof kind && text.test(facts.text));
      if (alike) facts.names = [alike[2]];
      else if (typeof error.syscall === 'string') facts.names = ['OSError'];
      const stack = String(error.stack);
      // A syntax error's stack begins with its place; another's names the deepest frame first, after the message.
      const place = /^<answer>:(\d+)/.exec(stack) ?? /\n {4}at [^\n]*<answer>:(\d+)/.exec(stack);
      if (place) facts.line = Number(place[1]);
    } catch { /* a hostile error: what is known so far */ }
    return facts;
  }

  const task = receive();
  // A full pipe must hold the answer up: node would queue what it prints in memory, where no limit of output sees it.
  for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
  Error.stackTraceLimit = 50;
  Object.assign(globalThis, { require, module: { exports: {} } });
  globalThis.exports = module.exports;
  let phase = 'compile', candidate;
  try {
    const program = new vm.Script(task.code, { filename: FILE });
    phase = 'preamble';
    new vm.Script(task.preamble, { filename: '<preamble>' }).runInThisContext();
    phase = 'load';
    send(['compiled']);
    program.runInThisContext();
    const name = task.entry_point;
    if (!/^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(name)) throw new ReferenceError(`${name} is no name`);
    // A const or a class is no property of the global object, but every script sees it.
    candidate = vm.runInThisContext(`typeof ${name} === 'undefined' ? undefined : ${name}`);
    if (candidate === undefined) throw new ReferenceError(`function ${name} is not defined`);
    if (typeof candidate !== 'function') throw new TypeError(`${name} is not a function`);
  } catch (error) {
    const facts = report(error);
    if (phase === 'compile') facts.names = ['SyntaxError'];
    send(['raised', phase, facts]);
    exit(CHANNEL_LOST);
  }
  send(['ready']);
  for (;;) {
    const args = decode(receive()[0]);
    let reply;
    try {
      reply = ['value', encode(candidate(...args))];
    } catch (error) {
      reply = error instanceof NotInert ? ['foreign', error.message] : ['raised', 'call', report(error)];
    }
    send(reply);
  }
})();
