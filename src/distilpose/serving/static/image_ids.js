// The id of an image in result files: the rule of distilpose.formats.image_ids.

const LIMIT = 2n ** 63n; // ids are below
const FIRST_FREE = 1n; // for an image whose name is not a number

/**
 * The id of an image alone: the number that its file's name without suffix is (`000000000785.jpg`: 785), else 1.
 *
 * @param {string} name of the file, with or without folders
 * @returns {bigint} because a number of JavaScript is exact below 2^53 only
 */
export function imageId(name) {
  const file = name.split(/[/\\]/).at(-1);
  const digits = file.match(/^([0-9]+)(\.[^.]*)?$/)?.[1];
  if (!digits || BigInt(digits) >= LIMIT) return FIRST_FREE;
  return BigInt(digits);
}
