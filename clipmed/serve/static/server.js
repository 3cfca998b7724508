// Requests to the server that this page came from.

export class ServerError extends Error {}

export async function facts() {
  return (await answerOf("/api/checkpoints")).json();
}

export async function classify(image, labels, prompts, signal) {
  const form = formOf(image);
  labels.forEach((label) => form.append("labels", label));
  if (Object.keys(prompts).length) form.append("prompts", JSON.stringify(prompts));
  return (await posted("/api/classify", form, signal)).json();
}

export async function similar(image, signal) {
  return (await posted("/api/similar", formOf(image), signal)).json();
}

export async function preview(image, signal) {
  return (await posted("/api/preview", formOf(image), signal)).blob();
}

function formOf(image) {
  const form = new FormData();
  form.append("image", image, "image"); // the server has no use for the file's name
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
  if (!answer.ok) throw new ServerError(await messageOf(answer));
  return answer;
}

async function messageOf(answer) {
  try {
    const { error } = await answer.json();
    return error[0].toUpperCase() + error.slice(1) + ".";
  } catch {
    return `The server answered with status ${answer.status}.`;
  }
}
