// What the page shows, made of the server's answers. Text is set as text, never as markup.

export const element = (id) => document.getElementById(id);

export function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  if (share < 1 && share > 0.999) return "> 99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}

function signed(number) {
  return number.toFixed(3).replace("-", "\u2212");
}

export function megabytes(bytes) {
  return `${Math.ceil(bytes / 1e5) / 10}\u00a0MB`;
}

export function showFacts(facts) {
  element("limit").textContent = `, up to ${megabytes(facts.limits.upload_bytes)}`;
  element("templates").replaceChildren(
    ...facts.templates.flatMap((template, number) => [number ? ", " : "", made("code", "", template)]), "."
  );
  element("served").replaceChildren(
    ...facts.checkpoints.map((one) => made("li", "", `${one.name} · ${calibratedFor(one.calibration)}`))
  );
  element("privacy").textContent =
    `Images go to the clipmed server at ${location.host} and nowhere else. It holds them in memory while it works on ` +
    "them, and neither stores nor logs them.";
}

function calibratedFor(calibration) {
  return calibration ? `calibrated for ${few(calibration.labels)}` : "not calibrated";
}

function few(labels) {
  return labels.slice(0, 4).join(", ") + (labels.length > 4 ? ", …" : "");
}

export function showResults(results, checkpoints) {
  const order = byMeanShare(results);
  const calibrations = new Map(checkpoints.map((one) => [one.name, one.calibration]));
  element("cards").replaceChildren(
    ...results.map((result) => card(result, order, calibrations.get(result.checkpoint)))
  );
  element("order-note").hidden = results.length < 2;
  element("answer").hidden = false;
  element("empty").hidden = true;
}

export function showSimilar(found, index) {
  const count = new Intl.NumberFormat("en").format(index.images);
  element("similar-help").textContent =
    `The nearest of the index’s ${count} images by the embeddings of ${found.checkpoint}. Alike to the model is not ` +
    "alike in diagnosis.";
  element("hits").replaceChildren(...found.hits.map(hit));
  element("similar").hidden = false;
}

// Ask which frame of a file of several is meant; 0 is a file of one, or one that the server has not looked at.
export function offerFrames(count) {
  const field = element("frame");
  if (!count) field.value = "";
  else field.max = count - 1;
  element("frames").hidden = !count;
  element("frame-help").textContent = count ? `0 to ${count - 1}` : "";
  if (count) field.focus();
}

export function hideAnswers() {
  for (const id of ["answer", "similar", "stale"]) element(id).hidden = true;
  element("empty").hidden = false;
}

// Bring a part of the page into view where it is out of it, as results are below the form on a narrow screen.
export function reveal(id) {
  const { top } = element(id).getBoundingClientRect();
  if (top < 0 || top > 0.8 * innerHeight) element(id).scrollIntoView({ block: "start" });
}

export function summary(results) {
  const said = ({ checkpoint, label, scores }) =>
    `${checkpoint}: ${label}, ${percent(scores.find((score) => score.label === label).probability)}.`;
  return results.map(said).join(" ");
}

// One order of the labels for all cards, so that they compare row by row.
function byMeanShare(results) {
  const total = new Map();
  for (const { scores } of results) {
    for (const { label, probability } of scores) total.set(label, (total.get(label) ?? 0) + probability);
  }
  return [...total.keys()].sort((one, other) => total.get(other) - total.get(one));
}

function card(result, order, calibration) {
  const scores = new Map(result.scores.map((score) => [score.label, score]));
  const ranked = order.map((label) => scores.get(label));
  const head = made("header");
  head.append(made("h3", "", result.checkpoint), badge(result));
  const bars = made("ul", "bars");
  bars.append(...ranked.map((score) => bar(score, score.label === result.label)));
  const whole = made("article", "card");
  whole.dataset.checkpoint = result.checkpoint;
  whole.append(head, bars, made("p", "help", calibrationNote(result, calibration)), cosines(ranked));
  return whole;
}

function badge({ temperature }) {
  const [kind, said] = {
    learned: ["badge", "Not calibrated"],
    fitted: ["badge calibrated", "Calibrated"],
    "fitted on other labels": ["badge elsewhere", "Fitted on other labels"],
  }[temperature];
  return made("span", kind, said);
}

function calibrationNote({ temperature }, calibration) {
  if (temperature === "learned") {
    return "Nobody has fitted its temperature on labelled images: it may be far too sure, or not sure enough.";
  }
  const fitted = `Its temperature was fitted on ${calibration.images} images of ${few(calibration.labels)}`;
  return temperature === "fitted"
    ? `${fitted}. On other images its percentages may be as wrong as before.`
    : `${fitted}: other labels than these, or other prompts. Here its percentages may be as wrong as before.`;
}

function bar({ label, probability }, isBest) {
  const row = made("li", isBest ? "bar best" : "bar");
  const fill = made("div", "fill");
  fill.style.setProperty("--share", `${100 * probability}%`);
  const track = made("div", "track");
  track.append(fill);
  row.append(made("span", "name", label), made("span", "share", percent(probability)), track);
  return row;
}

function cosines(scores) {
  const table = made("table");
  for (const { label, cosine } of scores) {
    const row = table.insertRow();
    const name = made("th", "", label);
    name.scope = "row";
    row.append(name);
    row.insertCell().textContent = signed(cosine);
  }
  const details = made("details");
  details.append(made("summary", "", "Cosines to the image"), table);
  return details;
}

function hit({ name, caption, score, thumbnail }) {
  const frame = made("div", "frame", thumbnail ? "" : "No thumbnail");
  if (thumbnail) frame.append(picture(thumbnail, caption ?? name, frame));
  const text = made("p", "caption", caption ?? name);
  text.title = caption ?? name;
  const whole = made("li", "hit");
  whole.append(frame, text, made("p", "cosine", `cosine ${signed(score)}`));
  return whole;
}

function picture(address, alt, frame) {
  const image = made("img");
  image.alt = alt;
  image.addEventListener("error", () => frame.replaceChildren("No thumbnail"));
  image.src = address;
  return image;
}

function made(tag, className = "", text = "") {
  const one = document.createElement(tag);
  if (className) one.className = className;
  if (text) one.textContent = text;
  return one;
}
