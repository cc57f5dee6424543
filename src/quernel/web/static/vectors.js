// The arithmetic of the playground, as src/quernel/web/vectors.py has it. A vector is an array of numbers.

// Vectors of float32 numbers, little-endian and one after another, from base64.
export function decode(base64, length) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const number = (index) => view.getFloat32(4 * index, true);
  return Array.from({ length: bytes.length / 4 / length }, (_, row) =>
    Float64Array.from({ length }, (_, column) => number(row * length + column)));
}

export function dot(a, b) {
  let sum = 0;
  for (let index = 0; index < a.length; index++) sum += a[index] * b[index];
  return sum;
}

// The beginning of a vector, scaled to length one.
export function cut(vector, dimensions) {
  const kept = vector.slice(0, dimensions);
  const length = Math.sqrt(dot(kept, kept)) || 1;
  return kept.map((number) => number / length);
}

// Every vector with every other.
export function gram(vectors) {
  return vectors.map((a) => vectors.map((b) => dot(a, b)));
}

// Positions of scores from the highest; equal ones stay as they are.
export function orderOf(scores) {
  return scores.map((_, index) => index).sort((a, b) => scores[b] - scores[a] || a - b);
}

// The place of each position in an order, from 1.
export function placesOf(order) {
  const places = new Array(order.length);
  order.forEach((index, place) => { places[index] = place + 1; });
  return places;
}

// Whom each is most like, besides itself; null where there is nobody else.
export function neighboursOf(similarities) {
  return similarities.map((row, self) => row.reduce(
    (best, value, other) => (other !== self && (best === null || value > row[best]) ? other : best), null));
}

// A colour of the heat map, from 0 to `levels`.
export function levelOf(similarity, low, high, levels) {
  const share = high > low ? (similarity - low) / (high - low) : 1;
  return Math.min(Math.max(Math.floor(share * levels + 0.5), 0), levels);
}

const ROUNDS = 2000;

// The eigenvector of a symmetric matrix with the highest eigenvalue, by repeated multiplication, and that value.
function strongest(matrix) {
  let vector = matrix.map((_, index) => Math.cos(index + 1));
  let value = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const next = matrix.map((row) => dot(row, vector));
    const length = Math.sqrt(dot(next, next));
    if (length < 1e-12) return { value: 0, vector: vector.map(() => 0) };
    const turned = next.map((number) => number / length);
    const change = Math.max(...turned.map((number, index) => Math.abs(number - vector[index])));
    [vector, value] = [turned, length];
    if (change < 1e-12) break;
  }
  return { value, vector };
}

// Where vectors lie on their two principal axes, and the share of all variance that these have. An axis is turned so
// that places are as near as may be to those of `like`; without that, so that the farthest is on its positive side.
export function planeOf(vectors, like = null) {
  const size = vectors.length;
  const mean = vectors[0].map((_, column) => vectors.reduce((sum, vector) => sum + vector[column], 0) / size);
  let matrix = gram(vectors.map((vector) => vector.map((number, column) => number - mean[column])));
  const whole = matrix.reduce((sum, row, index) => sum + row[index], 0);
  const places = vectors.map(() => [0, 0]);
  let found = 0;
  for (let axis = 0; axis < Math.min(2, size); axis++) {
    const { value, vector } = strongest(matrix);
    const along = vector.map((number) => number * Math.sqrt(value));
    const farthest = along.reduce((best, number) => (Math.abs(number) > Math.abs(best) ? number : best), 0);
    const likeness = like === null ? farthest : dot(along, like.map((place) => place[axis]));
    along.forEach((number, index) => { places[index][axis] = likeness < 0 ? -number : number; });
    found += value;
    matrix = matrix.map((row, i) => row.map((number, j) => number - value * vector[i] * vector[j]));
  }
  return { places, share: whole > 1e-12 ? found / whole : 1 };
}

// Places in a picture, as large as it takes, with one scale for both axes.
export function fit(places, width, height, margin) {
  const most = [0, 1].map((axis) => Math.max(...places.map((place) => Math.abs(place[axis]))));
  const rooms = [[width, most[0]], [height, most[1]]].filter(([, far]) => far > 0)
    .map(([size, far]) => (size / 2 - margin) / far);
  const scale = rooms.length ? Math.min(...rooms) : 1;
  return places.map(([x, y]) => [width / 2 + x * scale, height / 2 - y * scale]);
}

// Places moved apart until none covers another, and kept within the picture.
export function spread(places, distance, width, height, margin) {
  const moved = places.map((place) => [...place]);
  for (let round = 0; round < 200; round++) {
    let isCalm = true;
    for (let i = 0; i < moved.length; i++) {
      for (let j = i + 1; j < moved.length; j++) {
        let [x, y] = [moved[j][0] - moved[i][0], moved[j][1] - moved[i][1]];
        const apart = Math.hypot(x, y);
        if (apart >= distance - 0.01) continue;
        isCalm = false;
        if (apart < 0.001) [x, y] = [Math.cos(i + 7 * j), Math.sin(i + 7 * j)];
        const push = (distance - apart) / 2 / (Math.hypot(x, y) || 1);
        moved[i] = [moved[i][0] - x * push, moved[i][1] - y * push];
        moved[j] = [moved[j][0] + x * push, moved[j][1] + y * push];
      }
    }
    for (const place of moved) {
      place[0] = Math.min(Math.max(place[0], margin), width - margin);
      place[1] = Math.min(Math.max(place[1], margin), height - margin);
    }
    if (isCalm) break;
  }
  return moved;
}

// The texts of a field: one on each line; where lines are empty, what is between those.
export function splitTexts(content) {
  const text = content.replace(/\r\n?/g, "\n").trim();
  if (text === "") return [];
  return /\n[^\S\n]*\n/.test(text) ? text.split(/\n(?:[^\S\n]*\n)+/) : text.split("\n");
}
