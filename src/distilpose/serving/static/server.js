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
  return { poses: answer.people.map((person, row) => readPerson(person, boxes[row])), milliseconds };
}

function reason(status, answer) {
  const said = answer?.error?.message ?? answer?.message ?? answer?.detail ?? answer?.error;
  if (status === 404 || status === 405 || status === 501) {
    return 'this host has no server part: start distilpose serve and open its page';
  }
  if (status === 401 || status === 403) return 'the server asks for a key: enter it under "Server key"';
  return `the server answered ${status}${said ? `: ${typeof said === 'string' ? said : JSON.stringify(said)}` : ''}`;
}

function readPerson(person, box) {
  const flat = person.keypoints.flat();
  const xy = [];
  const scores = [];
  for (let at = 0; at < flat.length; at += 3) {
    xy.push([flat[at], flat[at + 1]]);
    scores.push(flat[at + 2]);
  }
  return {
    xy,
    rawScore: person.raw_score === null ? null : (person.raw_score ?? scores),
    sigma: person.sigma ?? null,
    box: person.box_xyxy ?? box,
    boxScore: person.box_score ?? 1,
    poseScore: person.score ?? person.pose_score ?? 0,
  };
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
