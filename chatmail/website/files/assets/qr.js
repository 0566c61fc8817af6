"use strict";
// A QR code encoder, as much of ISO/IEC 18004 as an invitation needs: byte mode, error
// correction level M, versions 1 to 10 (up to 213 bytes). The relay's pages load nothing from
// elsewhere, and only the browser knows the address that a relay with a self-signed certificate gave.

// For versions 1 to 10 at level M (table 9): codewords in all, check codewords of one block, blocks.
const QR_CODEWORDS = [26, 44, 70, 100, 134, 172, 196, 242, 292, 346];
const QR_CHECK = [10, 16, 26, 18, 24, 16, 18, 22, 22, 26];
const QR_BLOCKS = [1, 1, 1, 2, 2, 4, 4, 4, 5, 5];

const QR_MASKS = [
  (x, y) => (x + y) % 2 === 0,
  (x, y) => y % 2 === 0,
  (x) => x % 3 === 0,
  (x, y) => (x + y) % 3 === 0,
  (x, y) => (Math.floor(x / 3) + Math.floor(y / 2)) % 2 === 0,
  (x, y) => ((x * y) % 2) + ((x * y) % 3) === 0,
  (x, y) => (((x * y) % 2) + ((x * y) % 3)) % 2 === 0,
  (x, y) => (((x + y) % 2) + ((x * y) % 3)) % 2 === 0,
];

// Returns the code of `text` as rows of booleans, true is dark; null when the text is too long.
function qrCode(text) {
  const bytes = Array.from(new TextEncoder().encode(text));
  const version = qrVersion(bytes.length);
  if (version === null) return null;
  const codewords = qrInterleave(qrData(bytes, version), version);
  const candidates = QR_MASKS.map((_, mask) => qrMatrix(codewords, version, mask));
  const penalties = candidates.map(qrPenalty);
  return candidates[penalties.indexOf(Math.min(...penalties))];
}

function qrCapacity(version) {
  return QR_CODEWORDS[version - 1] - QR_CHECK[version - 1] * QR_BLOCKS[version - 1];
}

// Bits before the text: four of the mode, then the length (table 3).
function qrLengthBits(version) {
  return version < 10 ? 8 : 16;
}

function qrVersion(length) {
  for (let version = 1; version <= QR_CODEWORDS.length; version++) {
    if (4 + qrLengthBits(version) + 8 * length <= 8 * qrCapacity(version)) return version;
  }
  return null;
}

// Mode, length, text, terminator and padding (clause 7.4), as bytes.
function qrData(bytes, version) {
  const bits = [];
  const push = (value, count) => {
    for (let i = count - 1; i >= 0; i--) bits.push((value >> i) & 1);
  };
  push(4, 4);
  push(bytes.length, qrLengthBits(version));
  bytes.forEach((byte) => push(byte, 8));
  push(0, Math.min(4, 8 * qrCapacity(version) - bits.length));
  push(0, (8 - (bits.length % 8)) % 8);
  const data = [];
  for (let i = 0; i < bits.length; i += 8) data.push(parseInt(bits.slice(i, i + 8).join(""), 2));
  for (let pad = 0xec; data.length < qrCapacity(version); pad ^= 0xec ^ 0x11) data.push(pad);
  return data;
}

// Multiplication in GF(256) modulo x^8 + x^4 + x^3 + x^2 + 1.
function qrMultiply(a, b) {
  let product = 0;
  for (; b; b >>= 1) {
    if (b & 1) product ^= a;
    a = (a << 1) ^ (a & 0x80 ? 0x11d : 0);
  }
  return product;
}

// The Reed-Solomon check codewords of one block: the remainder by (x - 1)(x - 2)(x - 4)...
function qrCheck(block, count) {
  const divisor = new Array(count).fill(0);
  divisor[count - 1] = 1;
  for (let root = 1, i = 0; i < count; i++, root = qrMultiply(root, 2)) {
    for (let j = 0; j < count; j++) {
      divisor[j] = qrMultiply(divisor[j], root) ^ (j + 1 < count ? divisor[j + 1] : 0);
    }
  }
  const remainder = new Array(count).fill(0);
  for (const byte of block) {
    const factor = byte ^ remainder.shift();
    remainder.push(0);
    divisor.forEach((value, i) => { remainder[i] ^= qrMultiply(value, factor); });
  }
  return remainder;
}

// Blocks take turns (clause 7.6): a damaged spot then costs each of them a little.
function qrInterleave(data, version) {
  const count = QR_BLOCKS[version - 1];
  const short = Math.floor(data.length / count);
  const longer = data.length % count;
  const blocks = [];
  for (let i = 0, start = 0; i < count; i++) {
    const length = short + (i >= count - longer ? 1 : 0);
    blocks.push(data.slice(start, start + length));
    start += length;
  }
  const takeTurns = (lists) => {
    const longest = Math.max(...lists.map((list) => list.length));
    const turns = [];
    for (let i = 0; i < longest; i++) {
      for (const list of lists) if (i < list.length) turns.push(list[i]);
    }
    return turns;
  };
  const checks = blocks.map((block) => qrCheck(block, QR_CHECK[version - 1]));
  return takeTurns(blocks).concat(takeTurns(checks));
}

// Function patterns first (null is a free module), then the codewords into what they leave free.
function qrMatrix(codewords, version, mask) {
  const size = 17 + 4 * version;
  const matrix = Array.from({ length: size }, () => new Array(size).fill(null));
  qrDrawPatterns(matrix, version);
  qrDrawFormat(matrix, mask);
  if (version >= 7) qrDrawVersion(matrix, version);
  qrDrawCodewords(matrix, codewords, QR_MASKS[mask]);
  return matrix;
}

// Timing, alignment and finder patterns (clause 6.3).
function qrDrawPatterns(matrix, version) {
  const size = matrix.length;
  const square = (centreX, centreY, radius, isDark) => {
    for (let y = -radius; y <= radius; y++) {
      for (let x = -radius; x <= radius; x++) {
        const row = matrix[centreY + y];
        if (row && centreX + x in row) {
          row[centreX + x] = isDark(Math.max(Math.abs(x), Math.abs(y)));
        }
      }
    }
  };
  for (let i = 0; i < size; i++) matrix[6][i] = matrix[i][6] = i % 2 === 0;
  // Versions 2 to 6 have one alignment pattern, 7 to 10 also those halfway (annex E).
  const end = size - 7;
  const centres = version === 1 ? [] : version < 7 ? [6, end] : [6, (6 + end) / 2, end];
  for (const y of centres) {
    for (const x of centres) {
      const inFinder = (x === 6 && y === 6) || (x === 6 && y === end) || (x === end && y === 6);
      if (!inFinder) square(x, y, 2, (distance) => distance !== 1);
    }
  }
  for (const [x, y] of [[3, 3], [size - 4, 3], [3, size - 4]]) {
    square(x, y, 4, (distance) => distance !== 2 && distance !== 4);
  }
}

// `value` followed by its check bits, of which `generator` has as many as its degree.
function qrWithCheckBits(value, generator) {
  const degree = 31 - Math.clz32(generator);
  let remainder = value << degree;
  while (remainder >= 1 << degree) {
    remainder ^= generator << (31 - Math.clz32(remainder) - degree);
  }
  return (value << degree) | remainder;
}

// Level M (two zero bits) and the mask, twice, and the module that is always dark (clause 7.9).
function qrDrawFormat(matrix, mask) {
  const size = matrix.length;
  const format = qrWithCheckBits(mask, 0x537) ^ 0x5412;
  for (let i = 0; i < 15; i++) {
    const dark = ((format >> i) & 1) === 1;
    // Beside the upper left finder: down column 8, then left along row 8, past the timing pattern.
    if (i < 8) matrix[i < 6 ? i : i + 1][8] = dark;
    else matrix[8][i === 8 ? 7 : 14 - i] = dark;
    // The copy: along row 8 under the upper right finder, then column 8 beside the lower left.
    if (i < 8) matrix[8][size - 1 - i] = dark;
    else matrix[size - 15 + i][8] = dark;
  }
  matrix[size - 8][8] = true;
}

// The version, twice, beside two of the finder patterns (clause 7.10).
function qrDrawVersion(matrix, version) {
  const bits = qrWithCheckBits(version, 0x1f25);
  for (let i = 0; i < 18; i++) {
    const far = matrix.length - 11 + (i % 3);
    const near = Math.floor(i / 3);
    matrix[near][far] = matrix[far][near] = ((bits >> i) & 1) === 1;
  }
}

// Upwards and downwards in turn, two columns at a time from the right (clause 7.7.3).
function qrDrawCodewords(matrix, codewords, mask) {
  const size = matrix.length;
  let index = 0;
  let upwards = true;
  for (let right = size - 1; right > 0; right -= 2) {
    if (right === 6) right = 5; // the timing pattern's column
    for (let step = 0; step < size; step++) {
      const y = upwards ? size - 1 - step : step;
      for (const x of [right, right - 1]) {
        if (matrix[y][x] !== null) continue;
        const byte = codewords[index >> 3] || 0; // the few modules left over are zero
        const bit = (byte >> (7 - (index & 7))) & 1;
        matrix[y][x] = (bit === 1) !== mask(x, y);
        index++;
      }
    }
    upwards = !upwards;
  }
}

// How hard a code is to read (clause 7.8.3): the mask with the least is used.
function qrPenalty(matrix) {
  const size = matrix.length;
  const columns = matrix.map((_, x) => matrix.map((row) => row[x]));
  let penalty = 0;
  for (const line of matrix.concat(columns)) {
    const text = line.map(Number).join("");
    for (const run of text.match(/0{5,}|1{5,}/g) || []) penalty += run.length - 2;
    penalty += 40 * (text.match(/(?=10111010000|00001011101)/g) || []).length;
  }
  for (let y = 1; y < size; y++) {
    for (let x = 1; x < size; x++) {
      const same = matrix[y][x] + matrix[y - 1][x] + matrix[y][x - 1] + matrix[y - 1][x - 1];
      if (same === 0 || same === 4) penalty += 3;
    }
  }
  const dark = matrix.flat().filter(Boolean).length / (size * size);
  return penalty + 10 * Math.floor(Math.abs(dark - 0.5) * 20);
}
