// The same image and boxes on the server. Everything that knows what its answer looks like is here.

/** The server could not answer; the message is for the visitor. */
export class ServerError extends Error {}

/**
 * @param {Blob} image
 * @param {string} name of its file
 * @param {number[][]} boxes in pixels of that image
 * @param {string} key that the server asks for, or ''
 * @returns {Promise<{poses: import('./pose.js').Pose[], milliseconds: number}>} in the order of the boxes
 */
export async function predictOnServer(image, name, boxes, key) {
  if (!/^[\x20-\x7e]*$/.test(key)) {
    throw new ServerError('the server key has characters outside ASCII, which cannot be sent: check what was pasted');
  }
  const form = new FormData();
  form.append('image', image, name);
  form.append('boxes', JSON.stringify(boxes));
  const start = performance.now();
  let response;
  try {
    response = await fetch(new URL('v1/predict', document.baseURI), {
      method: 'POST',
      body: form,
      headers: key ? { 'X-API-Key': key } : {},
    });
  } catch {
    throw new ServerError('the server cannot be reached');
  }
  const milliseconds = performance.now() - start;
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new ServerError(reason(response.status, answer));
  if (!Array.isArray(answer?.people)) throw new ServerError('the server gave an answer without a list "people"');
  return { poses: answer.people.map(readPerson), milliseconds };
}

function reason(status, answer) {
  if (status === 404 || status === 405 || status === 501) {
    return 'this host has no server part: start distilpose serve and open its page';
  }
  if (status === 401 || status === 403) return 'the server asks for a key: enter it under "Server key"';
  return `the server answered ${status}${answer?.message ? `: ${answer.message}` : ''}`;
}

function readPerson({ keypoints, raw_score: rawScore, sigma, box_xyxy: box, box_score: boxScore, score: poseScore }) {
  const xy = [];
  for (let at = 0; at < keypoints.length; at += 3) xy.push(keypoints.slice(at, at + 2)); // x, y, score each
  return { xy, rawScore, sigma, box, boxScore, poseScore };
}

/**
 * How far two answers to the same boxes lie apart.
 *
 * @returns {{largest: number, mean: number} | null} in pixels; null where there is nothing to compare
 */
export function difference(posesA, posesB) {
  const distances = [];
  posesA.slice(0, posesB.length).forEach((pose, row) => {
    pose.xy.forEach(([x, y], k) => distances.push(Math.hypot(x - posesB[row].xy[k][0], y - posesB[row].xy[k][1])));
  });
  if (!distances.length) return null;
  return { largest: Math.max(...distances), mean: distances.reduce((a, b) => a + b, 0) / distances.length };
}
