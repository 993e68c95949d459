// What the page holds, unpacked when it is asked for: an index of all episodes, and the
// episodes themselves in chunks of deflated JSON. Nothing here touches the document but to
// read the data elements, and no text of an episode is ever read as markup.

const CACHED_CHUNKS = 48; // parsed chunks that are kept
const HAYSTACK_LIMIT = 400e6; // characters of search text that are kept

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// The JSON value of a data element.
async function unpack(element) {
  const packed = new Blob([bytesOf(element.textContent.trim())]).stream();
  const text = await new Response(packed.pipeThrough(new DecompressionStream("deflate"))).text();
  return JSON.parse(text);
}

// Little-endian numbers that a record holds as base64: "<i4", "<f4", "<f2" or "<u2".
function numbersOf(base64, kind) {
  const view = new DataView(bytesOf(base64).buffer);
  const size = Number(kind[2]);
  const read = {
    "<i4": (at) => view.getInt32(at, true),
    "<f4": (at) => view.getFloat32(at, true),
    "<u2": (at) => view.getUint16(at, true),
    "<f2": (at) => half(view.getUint16(at, true)),
  }[kind];
  return Array.from({ length: view.byteLength / size }, (_, i) => read(i * size));
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * 2 ** -24 * fraction;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * 2 ** (exponent - 25) * (1024 + fraction);
}

// The index: `rows` are objects with the fields of report/entries.py. A column of texts
// comes as its distinct values and the number of each row's.
function rowsOf(index) {
  const columns = Object.entries(index.columns).map(([name, column]) => [
    name,
    Array.isArray(column) ? column : column.at.map((i) => column.values[i]),
  ]);
  return Array.from({ length: index.count }, (_, i) => {
    const row = { i };
    for (const [name, column] of columns) row[name] = column[i];
    return row;
  });
}

class Store {
  // `page` is the number of this file among those that share the episodes.
  constructor(index) {
    this.rows = rowsOf(index);
    this.runs = index.runs;
    this.files = index.files;
    this.page = index.page;
    this.kinds = index.kinds;
    this.elements = { texts: elementsOf("texts"), numbers: elementsOf("numbers") };
    this.cache = new Map();
    this.haystacks = [];
    this.haystackSize = 0;
    this.members = this.elements.texts.map(() => []);
    for (const row of this.rows) {
      row.key = keyOf(row, this.runs);
      if (this.isHere(row)) this.members[row.chunk][row.place] = row;
    }
    this.byKey = new Map(this.rows.map((row) => [row.key, row]));
  }

  isHere(row) {
    return row.page === this.page;
  }

  // Where an episode's text is, for a link; null where no page has it.
  fileOf(row) {
    return row.page < 0 ? null : this.files[row.page];
  }

  async chunk(kind, number) {
    const name = kind + number;
    if (!this.cache.has(name)) {
      this.cache.set(name, unpack(this.elements[kind][number]));
      if (this.cache.size > CACHED_CHUNKS) this.cache.delete(this.cache.keys().next().value);
    }
    return this.cache.get(name);
  }

  async record(row) {
    return (await this.chunk("texts", row.chunk))[row.place];
  }

  // The record as it stands in its file, numbers and all.
  async whole(row) {
    return { ...(await this.record(row)), ...(await this.chunk("numbers", row.chunk))[row.place] };
  }

  // Per token: id, characters, log-prob, entropy; null for a record that keeps none.
  async tokens(row) {
    const packed = (await this.chunk("numbers", row.chunk))[row.place];
    const names = Object.keys(this.kinds);
    if (!names.every((name) => name in packed)) return null;
    return Object.fromEntries(names.map((n) => [n, numbersOf(packed[n], this.kinds[n])]));
  }

  // The texts of a chunk's episodes in lower case, kept for the next search.
  async haystack(number) {
    if (this.haystacks[number]) return this.haystacks[number];
    const records = await unpack(this.elements.texts[number]);
    const texts = records.map((record) => haystackOf(record).toLowerCase());
    this.haystackSize += texts.reduce((sum, text) => sum + text.length, 0);
    if (this.haystackSize < HAYSTACK_LIMIT) this.haystacks[number] = texts;
    return texts;
  }
}

function elementsOf(kind) {
  return Array.from(document.querySelectorAll(`script[data-kind="${kind}"]`));
}

// All that can be searched, with a mark between the parts so that no match spans two.
function haystackOf(record) {
  const parts = [record.question, record.problem_id, record.gold, record.final_text];
  for (const span of record.spans) if (span.kind !== "prompt") parts.push(span.text);
  for (const call of record.calls) parts.push(call.code, call.text);
  return parts.join("\u0001");
}

// A name that stays the same when the report is made again; what deep links hold. Plain, as
// an address has no place for half a character.
function keyOf(row, runs) {
  const parts = runs.length > 1 ? [runs[row.run].name] : [];
  parts.push(row.stage);
  if (row.stage === "eval") parts.push(row.checkpoint, row.arm, row.evaluation);
  else parts.push(row.step);
  return plain([...parts, row.problem, row.sample].join("/"));
}
