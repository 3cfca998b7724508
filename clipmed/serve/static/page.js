// The page: what is chosen and typed, when the server is asked, and what is shown meanwhile.

import * as server from "./server.js";
import {
  element, hideAnswers, megabytes, offerFrames, reveal, showFacts, showResults, showSimilar, summary,
} from "./view.js";

const EXAMPLES = {
  "Kind of image": [
    "chest X-ray", "brain MRI", "abdominal CT", "breast ultrasound", "fundus photograph", "photograph of a skin lesion",
    "histopathology slide", "endoscopy image",
  ],
  "Chest X-ray": ["normal chest X-ray", "chest X-ray with pneumonia"],
  "Brain MRI": ["brain MRI without a tumor", "brain MRI with a glioma", "brain MRI with a meningioma"],
  "Skin lesion": ["benign skin lesion", "malignant skin lesion"],
  "Fundus": ["normal fundus", "diabetic retinopathy", "glaucoma", "cataract"],
  "Lung tissue": ["benign lung tissue", "lung adenocarcinoma", "lung squamous cell carcinoma"],
};

const facts = server.facts();
const state = { image: null, asking: null, previewing: null, hasSimilarOf: null };

const picture = () => ({ image: state.image, frame: element("frame").value });
const lines = (id) => element(id).value.split("\n").map((line) => line.trim()).filter(Boolean);

function say(message) {
  element("error").textContent = message;
  element("error").hidden = !message;
  if (message) reveal("error");
}

async function take(files) {
  if (!files.length) return;
  if (files.length > 1) return say(`One image at a time: got ${files.length} files.`);
  const [image] = files;
  const most = (await facts).limits.upload_bytes;
  if (image.size > most) {
    return say(`${image.name} has ${megabytes(image.size)}; this server takes images of up to ${megabytes(most)}.`);
  }
  state.image = image;
  hideAnswers();
  offerFrames(0);
  preview();
  ask();
}

function preview() {
  state.previewing?.abort();
  state.previewing = new AbortController();
  const { signal } = state.previewing;
  const { image, frame } = picture();
  const shown = element("preview");
  const show = (blob) => {
    URL.revokeObjectURL(shown.src);
    shown.src = URL.createObjectURL(blob);
  };
  shown.alt = `The image chosen: ${image.name}${frame && `, frame ${frame}`}`;
  const isShown = (isIt) => {
    shown.hidden = !isIt;
    element("no-preview").hidden = isIt;
  };
  const askServer = async () => {
    shown.onerror = null;
    isShown(false);
    const made = await server.preview({ image, frame }, signal).catch(() => null);
    if (made && !signal.aborted) show(made);
  };
  shown.onload = () => isShown(true);
  shown.onerror = askServer; // perhaps a format that the browser does not know and the server does
  element("chosen-name").textContent = image.name;
  element("chosen").hidden = false;
  element("invitation").hidden = true;
  element("well").classList.add("filled");
  if (frame) askServer();
  else show(image);
}

// {label: prompts} of the lines `label: a prompt | another`; a label may hold a colon itself.
function ownPrompts(labels) {
  const longestFirst = [...labels].sort((one, other) => other.length - one.length);
  const prompts = {};
  for (const line of lines("prompts")) {
    const label = longestFirst.find((one) => line.startsWith(`${one}:`)) ?? line.split(":", 1)[0].trim();
    if (!line.includes(":")) throw new server.ServerError(`Prompts: “${line}” has no colon. Write label: a prompt | another.`);
    const texts = line.slice(line.indexOf(":", label.length) + 1).split("|").map((text) => text.trim()).filter(Boolean);
    prompts[label] = (prompts[label] ?? []).concat(texts);
  }
  return prompts;
}

async function ask() {
  if (!state.image) return say("Choose an image first.");
  state.asking?.abort();
  const asking = new AbortController();
  state.asking = asking;
  say("");
  busy(true);
  try {
    const { index, checkpoints } = await facts;
    const labels = lines("labels");
    const work = [server.classify(picture(), labels, ownPrompts(labels), asking.signal)];
    if (index && state.hasSimilarOf !== state.image) work.push(server.similar(picture(), asking.signal));
    const [classified, similar] = await Promise.all(work);
    showResults(classified.results, checkpoints);
    if (similar) {
      showSimilar(similar, index);
      state.hasSimilarOf = state.image;
    }
    fresh(true);
    element("status").textContent = summary(classified.results);
    reveal("results");
  } catch (error) {
    if (error.name === "AbortError") return;
    asking.abort();
    state.hasSimilarOf = null;
    hideAnswers();
    element("status").textContent = "";
    say(error.message);
    if (error.frames) offerFrames(error.frames);
  } finally {
    if (state.asking === asking) busy(false);
  }
}

function busy(isBusy) {
  element("progress").hidden = !isBusy;
  element("results").setAttribute("aria-busy", isBusy);
  element("submit").setAttribute("aria-disabled", isBusy);
  element("submit").textContent = isBusy ? "Working…" : "Classify";
  element("lead").textContent = isBusy ? "Working…" : "Nothing to show yet";
  element("invite").hidden = isBusy;
  if (isBusy) element("status").textContent = "Working.";
}

function fresh(isFresh) {
  element("stale").hidden = isFresh;
  element("results").classList.toggle("old", !isFresh);
}

function changed() {
  if (!element("answer").hidden) fresh(false);
}

function listenForImages() {
  element("file").addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const dragging = (isOver) => document.body.classList.toggle("dragging", isOver);
  window.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    dragging(true);
  });
  window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) dragging(false); });
  window.addEventListener("drop", (event) => {
    dragging(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    take([...event.dataTransfer.files]);
  });
  element("frame").addEventListener("change", () => {
    state.hasSimilarOf = null;
    preview();
    ask();
  });
  window.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });
}

function listenForTexts() {
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (element("submit").getAttribute("aria-disabled") !== "true") ask();
  });
  element("form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element("form").requestSubmit();
  });
  element("labels").addEventListener("input", changed);
  element("prompts").addEventListener("input", changed);
  element("fill").addEventListener("click", async () => {
    const { templates } = await facts;
    const filled = (label) => templates.map((template) => template.replace("{}", label)).join(" | ");
    element("prompts").value = lines("labels").map((label) => `${label}: ${filled(label)}`).join("\n");
    changed();
  });
}

function offerExamples() {
  const use = (labels) => {
    element("labels").value = labels.join("\n");
    element("prompts").value = "";
    changed();
  };
  element("examples").replaceChildren(
    ...Object.entries(EXAMPLES).map(([name, labels]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => use(labels));
      return button;
    })
  );
  if (!element("labels").value) use(Object.values(EXAMPLES)[0]);
}

offerExamples();
listenForImages();
listenForTexts();
try {
  showFacts(await facts);
} catch (error) {
  say(error.message);
}
