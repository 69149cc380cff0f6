"""What is looked at in every page, as expressions of JavaScript: lists that should be empty."""

from __future__ import annotations

# What can be used, and has no name to be told by.
NAMELESS = """() => [...document.querySelectorAll("button, input, select, summary, img, dialog, [role]")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.getAttribute("aria-label") || one.labels?.length || one.alt || one.textContent.trim()
    || document.getElementById(one.getAttribute("aria-labelledby"))?.textContent.trim() || one.closest("button")))
  .map((one) => one.outerHTML.slice(0, 100))"""
# Texts in sight whose contrast to what they stand on is less than WCAG 2 asks (AA): 4.5, and 3 for large ones.
FAINT = """() => {
  const parse = (color) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color[3] === 255) return color;
    }
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !one.checkVisibility()) continue;
    if (one.closest("noscript, .go")) continue; // shown while it is pointed at
    const style = getComputedStyle(one);
    const pair = [light(parse(style.color)), light(ground(one))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) found.push([one.outerHTML.slice(0, 80), contrast]);
  }
  return found;
}"""
# What is too small to be hit by a finger: less than 24 pixels, as WCAG 2.2 asks (AA).
SMALL = """() => [...document.querySelectorAll("button, select, summary, input:not([type=checkbox]):not([type=file])")]
  .filter((one) => one.checkVisibility() && !one.closest("[hidden]"))
  .map((one) => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])
  .filter(([, box]) => box.width && (box.width < 24 || box.height < 24)).map(([text]) => text)"""
