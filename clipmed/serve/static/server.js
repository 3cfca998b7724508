// Requests to the server that this page came from.

export class ServerError extends Error {
  // `frames` are the image's, where one of them must be chosen.
  constructor(message, frames = 0) {
    super(message);
    this.frames = frames;
  }
}

export async function facts() {
  return (await answerOf("/api/checkpoints")).json();
}

export async function classify(picture, labels, prompts, signal) {
  const form = formOf(picture);
  labels.forEach((label) => form.append("labels", label));
  if (Object.keys(prompts).length) form.append("prompts", JSON.stringify(prompts));
  return (await posted("/api/classify", form, signal)).json();
}

export async function similar(picture, signal) {
  return (await posted("/api/similar", formOf(picture), signal)).json();
}

export async function preview(picture, signal) {
  return (await posted("/api/preview", formOf(picture), signal)).blob();
}

// A picture is { image, frame }: a file, and which frame of it, or "" for files of one.
function formOf({ image, frame }) {
  const form = new FormData();
  form.append("image", image, "image"); // the server has no use for the file's name
  if (frame) form.append("frame", frame);
  return form;
}

// One after the other: a page takes one of the server's places, and leaves the others to others.
let lastPosted = Promise.resolve();

function posted(address, body, signal) {
  const answer = lastPosted.then(() => answerOf(address, { method: "POST", body, signal }));
  lastPosted = answer.catch(() => null);
  return answer;
}

async function answerOf(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. Is it still running?");
  }
  if (!answer.ok) throw await refusalOf(answer);
  return answer;
}

async function refusalOf(answer) {
  try {
    const { error, frames } = await answer.json();
    return new ServerError(error[0].toUpperCase() + error.slice(1) + ".", frames);
  } catch {
    return new ServerError(`The server answered with status ${answer.status}.`);
  }
}
