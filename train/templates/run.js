"use strict";
// What a chart's curves are at the step under the pointer.
const shown = (value, percent) => percent ? `${+(100 * value).toPrecision(3)} %` : `${+value.toPrecision(4)}`;
for (const panel of document.querySelectorAll(".panel")) {
  const data = JSON.parse(panel.dataset.chart), chart = panel.querySelector("svg.chart"), plot = chart.querySelector("svg");
  const cursor = plot.querySelector(".cursor"), reading = panel.querySelector(".reading");
  const [low, high] = data.x;
  const leave = () => { cursor.style.visibility = "hidden"; reading.hidden = true; };
  panel.addEventListener("pointerleave", leave);
  chart.addEventListener("pointermove", event => {
    const frame = chart.getBoundingClientRect(), width = +plot.getAttribute("width");
    const scale = frame.width / chart.viewBox.baseVal.width;
    const across = ((event.clientX - frame.left) / scale - plot.getAttribute("x")) / width;
    if (across < 0 || across > 1) return leave();
    const step = low + across * (high - low);
    const nearest = points => points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
    const rows = Object.entries(data.lines).map(([name, points]) => [name, nearest(points)]);
    const at = nearest(rows.map(row => row[1]))[0];
    cursor.setAttribute("x1", width * (high > low ? (at - low) / (high - low) : .5));
    cursor.setAttribute("x2", cursor.getAttribute("x1"));
    cursor.style.visibility = "visible";
    reading.textContent = rows.reduce((text, [name, point]) => `${text}\n${name}: ${shown(point[1], data.percent)}`, `step ${at}`);
    reading.hidden = false;
    reading.style.left = across < .5 ? "auto" : "54px";
    reading.style.right = across < .5 ? "12px" : "auto";
  });
}
// A run that was killed cannot say so: its log has fallen silent.
const state = document.querySelector(".state.running"), logged = Date.parse(document.body.dataset.logged);
const minutes = (Date.now() - logged) / 60000;
if (state && minutes > 30) {
  state.textContent = `silent for ${minutes < 120 ? Math.round(minutes) + " min" : Math.round(minutes / 60) + " h"} when this page was opened`;
  state.className = "state silent";
}
